"""Finds the JSON in a model's text: in a fence, after its thoughts, between words, complete or cut off."""

import json
import re
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

# Two bytes of an answer may be a value, which takes a hundred times that once it is read.
_COMMA_LIMIT: Final = 50_000
_FALSE_STARTS: Final = 8  # a brace in the words before the document is one; a flood of them costs time
_PIECES: Final = 1_000

_THOUGHT = "(?:think|thinking|thoughts?|reasoning|reflection|analysis|scratchpad)"
_OPENED = re.compile(rf"\s*(?:<{_THOUGHT}>|◁think▷)", re.IGNORECASE)
_CLOSED = re.compile(rf"(?:</{_THOUGHT}>|◁/think▷)", re.IGNORECASE)
_BEGINNING = re.compile(r"[{\[]")
_DOCUMENT = ("{", "[", '"', "```")  # what an answer without a word before it begins with
_FENCE = "```"
_ESCAPE = 6  # characters of the longest one in JSON
_DECODER = json.JSONDecoder(strict=False)  # a line break within a text is no reason to lose it


class TooMuchError(ValueError):
    """More values than any answer needs."""


class Found(NamedTuple):
    """The objects and lists in a text, outermost ones first come, and whether the text breaks off within one.

    Of an object or list that is not well-formed, these are the well-formed ones in it.
    """

    documents: Sequence[Any]
    cut_off: bool


def read_json(text: str | bytes) -> Any:
    """Return what a JSON text says. Raises ValueError, and TooMuchError for what would be costly to read."""
    if (text.count(b",") if isinstance(text, bytes) else text.count(",")) > _COMMA_LIMIT:
        raise TooMuchError
    try:
        return json.loads(text, strict=False)
    except RecursionError:
        raise ValueError("nested too deep") from None


def find_json(text: str) -> Found:
    """Return the JSON in a text. Raises TooMuchError."""
    if text.count(",") > _COMMA_LIMIT:
        raise TooMuchError
    answer = _without_thoughts(text)
    if answer is None:
        return Found((), cut_off=True)
    text = _without_quotes(answer).strip().removesuffix(_FENCE).rstrip()
    documents: list[Any] = []
    at, false_starts, cut_off = 0, 0, False
    while false_starts < _FALSE_STARTS and len(documents) < _PIECES and (begin := _BEGINNING.search(text, at)):
        try:
            document, at = _DECODER.raw_decode(text, begin.start())
            documents.append(document)
        except RecursionError:
            break
        except ValueError as error:
            false_starts += 1
            at = begin.end()
            cut_off = cut_off or (isinstance(error, json.JSONDecodeError) and _lacks_its_end(error, text))
    return Found(documents, cut_off)


def _lacks_its_end(error: json.JSONDecodeError, text: str) -> bool:
    if error.msg.startswith("Unterminated string"):
        return True
    return error.pos >= len(text) - (_ESCAPE if error.msg.startswith("Invalid \\") else 0)


def _without_thoughts(text: str) -> str | None:
    """Return the text behind the model's thoughts; None if they never end. Some servers swallow the opening mark."""
    closed = None
    if _OPENED.match(text) or not text.lstrip().startswith(_DOCUMENT):
        for closed in _CLOSED.finditer(text):  # noqa: B007  # the last one is wanted
            pass
    if closed:
        return text[closed.end() :]
    return None if _OPENED.match(text) else text


def _without_quotes(text: str) -> str:
    """Return the text in a JSON string, where the whole answer is one."""
    if text.lstrip().startswith('"'):
        try:
            inner = json.loads(text, strict=False)
        except ValueError:
            return text
        return str(inner)
    return text
