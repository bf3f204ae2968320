"""Finds what a provider repeats of a request, so that no product text gets into a message or the log."""

import re
from collections.abc import Iterator
from typing import Final, NamedTuple
from unicodedata import normalize

_RUN: Final = 4  # words in a row that are an echo even if each of them is an ordinary one
_DISTINCTIVE: Final = 5  # characters from which on a part of a word counts like a word: providers cut what they repeat

# Kept although a product's text may have them too: without them "maximum context length" of a shop that sells cables
# "of a maximum length" says nothing.
_ORDINARY: Final = """
a about after again all an and any are as at be been before but by can cannot could did do does for from had has have
here how if in into is it its may more must no not of on one only or other our out over please see should so some than
that the their them then there this to too under up use was were what when where which while will with you your

access account allowed api argument array authentication authorization available bad billing body boolean busy chat
code completion completions connection contact content context could credit current detail details disabled does
enabled error errors exceeded exist exists expected expired failed failure field file forbidden format found gateway
got header html http https id incorrect input internal invalid json key length less limit limited list max maximum
message messages method min minimum missing model models name network null number object occurred organization output
overloaded parameter payment permission permitted plan policy prompt property provided provider proxy quota rate
reached refused rejected request requested requests required response resource retry schema server service status stop
string structured support supported system temporarily text timed timeout token tokens try type unauthorized
unavailable unexpected unknown unsupported upstream url user valid value version wrong

description products seo title
"""

# Not \w: that leaves the vowel signs of Indian scripts and of Thai out, and breaks their words there.
_WORD = re.compile("[0-9A-Za-z\u00c0-\u1fff\u2070-\u2fff\u3040-\U0010ffff]+")
# Written without blanks between words: Thai to Khmer, kana and Han.
_UNBROKEN = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff]")
_ESCAPE = re.compile(r"\\+u(?P<unit>[0-9a-f]{4})|(?P<bytes>(?:\\+x[0-9a-f]{2})+)|\\+[nrt]", re.IGNORECASE)


class _Piece(NamedTuple):
    start: int
    end: int
    key: str


class Echoes:
    """Finds in a provider's words what repeats the `prompt`, or any word of the `products` in it.

    `known` (the model's name) and the ordinary words of error messages stay.
    """

    def __init__(self, *, prompt: str, products: str, known: str) -> None:
        self._products = _line_of(products)
        self._prompt = f"{_line_of(prompt)}{self._products}"
        self._known = re.compile(re.escape(_plain(known)), re.IGNORECASE)
        self._ordinary = frozenset(_ORDINARY.split())

    def strike(self, text: str) -> str:
        """Return the text with every echo as "…"."""
        text = _plain(text)
        pieces = list(_pieces(text))
        named = [match.span() for match in self._known.finditer(text)]
        echoed = [
            self._is_echo(piece) and not any(start <= piece.start and piece.end <= end for start, end in named)
            for piece in pieces
        ]
        for first in range(len(pieces)):
            run = pieces[first : first + _RUN]
            if len(run) == _RUN and f" {' '.join(piece.key for piece in run)} " in self._prompt:
                echoed[first : first + _RUN] = [True] * _RUN
            if self._is_echoed_pair(pieces[first : first + 2]):
                echoed[first : first + 2] = [True, True]
        parts, at = [], 0
        for number, piece in enumerate(pieces):
            if echoed[number]:
                if not (number and echoed[number - 1]):
                    parts += [text[at : piece.start], "…"]
                at = piece.end
        return "".join([*parts, text[at:]])

    def _is_echo(self, piece: _Piece) -> bool:
        if piece.key in self._ordinary:
            return False
        return f" {piece.key} " in self._products or (len(piece.key) >= _DISTINCTIVE and piece.key in self._products)

    def _is_echoed_pair(self, pair: list[_Piece]) -> bool:
        """Add two characters that stand together in a script without blanks."""
        if len(pair) < 2 or pair[0].end != pair[1].start:
            return False
        return pair[0].key + pair[1].key in self._products


def _plain(text: str) -> str:
    """Return the text without the escapes of JSON and Python, accents as parts of their letters."""
    return normalize("NFC", _ESCAPE.sub(_unescaped, text))


def _unescaped(escape: re.Match[str]) -> str:
    if escape["unit"]:
        return chr(int(escape["unit"], 16))
    if escape["bytes"]:
        return _text_of(bytes.fromhex(re.sub(r"\\+x", "", escape["bytes"], flags=re.IGNORECASE)))
    return " "


def _text_of(escaped: bytes) -> str:
    """Return what Python wrote as \\x..: of bytes they are UTF-8, of a text its characters below U+0100."""
    try:
        return escaped.decode()
    except UnicodeDecodeError:
        return escaped.decode("latin-1")


def _pieces(text: str) -> Iterator[_Piece]:
    """Yield the words; of scripts that put no blanks between them the characters."""
    for word in _WORD.finditer(text):
        if _UNBROKEN.search(word[0]):
            for at in range(word.start(), word.end()):
                yield _Piece(at, at + 1, text[at].casefold())
        else:
            yield _Piece(word.start(), word.end(), word[0].casefold())


def _line_of(text: str) -> str:
    return f" {' '.join(_WORD.findall(_plain(text).casefold()))} "
