"""Reading what a chat completion says."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from unicodedata import normalize

from executor_service.ai.errors import (
    AIBatchError,
    AICutOffError,
    AIError,
    AIRefusedError,
    AIUnansweredError,
    AIUnusableError,
)
from executor_service.ai.json_in_text import Found, TooMuchError, find_json, read_json
from executor_service.ai.text import cut_at_word, one_line

# Far beyond any search result: a model that runs away does not fill the database.
TEXT_LIMIT: Final = 1_000  # characters

_CUT_OFF = frozenset({"length", "max_tokens", "model_length"})
_FILTERED = frozenset({"content_filter", "safety", "recitation", "prohibited_content", "blocklist", "sensitive"})
_NUMBER = re.compile(r"\d{1,9}")


@dataclass(frozen=True, slots=True)
class Reading:
    """The texts of a completion, by the ids that were sent, and why there are none for the others, if so."""

    texts: Mapping[str, str] = field(default_factory=dict)
    failure: AIBatchError | None = None


def read_body(body: bytes) -> Any:
    """Return what the body of an answer says; a text that is no JSON as such. Raises AIError."""
    try:
        return read_json(body)
    except TooMuchError:
        raise _too_much("completion") from None
    except ValueError:
        text = body.decode(errors="replace").strip()
    if not text or text.startswith(("{", "[", "<")):
        raise AIUnusableError("completion: no JSON, or not all of it")
    return text


def read_completion(completion: Mapping[str, Any], sent: Sequence[str]) -> Reading:
    """Return what a completion says about the products that were sent under these ids; raise AIError for a flood.

    Usable texts are kept even when the rest of the answer is not usable.
    """
    message = (first_choice(completion) or {}).get("message")
    if not isinstance(message, dict):
        what = "message: there is none" if first_choice(completion) else "choices: there are none"
        return Reading(failure=AIUnusableError(what))
    content, refused = _content_of(message)
    try:
        found = content if isinstance(content, Found) else find_json(content)
    except TooMuchError:
        raise _too_much("suggestions") from None
    texts = _texts_of(found, sent)
    if len(texts) == len(sent):
        return Reading(texts)
    reason = str((first_choice(completion) or {}).get("finish_reason") or "").lower()
    return Reading(texts, _failure(found, reason, refused=refused, missing=len(sent) - len(texts), sent=len(sent)))


def _failure(found: Found, reason: str, *, refused: bool, missing: int, sent: int) -> AIBatchError:
    """Return why texts are missing."""
    if refused or reason in _FILTERED:
        return AIRefusedError(missing)
    if reason in _CUT_OFF or found.cut_off:
        return AICutOffError(repeat=sent == 1 and reason not in _CUT_OFF)
    if not found.documents:
        return AIUnusableError("suggestions: there is no JSON in it")
    return AIUnansweredError(missing, sent)


def first_choice(completion: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return a completion's choice, if it has one."""
    choices = completion.get("choices")
    return choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None


def _content_of(message: Mapping[str, Any]) -> tuple[str | Found, bool]:
    """Return what the model wrote, parts joined, and whether it said that it will not."""
    content, refused = message.get("content"), bool(message.get("refusal"))
    if isinstance(content, dict):
        return Found([content], cut_off=False), refused  # read already
    if not isinstance(content, list):
        return content if isinstance(content, str) else "", refused
    if any(isinstance(part, dict) and "id" in part and "text" in part for part in content):
        return Found([content], cut_off=False), refused
    parts = []
    for part in content:
        if isinstance(part, dict) and part.get("type") == "refusal":
            refused = True
        elif text := _text_of_part(part):
            parts.append(text)
    return "".join(parts), refused


def _text_of_part(part: object) -> str:
    """Return the text of a part; its thoughts are none."""
    if isinstance(part, dict) and part.get("type", "text") in ("text", "output_text"):
        part = part.get("text")
        part = part.get("value") if isinstance(part, dict) else part
    return part if isinstance(part, str) else ""


def _texts_of(found: Found, sent: Sequence[str]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for items in _lists_in(found.documents):
        candidate = _texts_in(items, sent)
        if len(candidate) >= len(texts):
            texts = candidate
    return texts


def _lists_in(documents: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Yield what may be the answer's list: as agreed, by another name or by none, or its items by themselves."""
    yield [document for document in documents if isinstance(document, dict) and "text" in document]
    for document in documents:
        if isinstance(document, list):
            yield document
        elif isinstance(document, dict):
            for value in [document["items"]] if "items" in document else document.values():
                if isinstance(value, dict) and isinstance(value.get("items"), list):
                    yield value["items"]
                elif isinstance(value, list):
                    yield value
                elif isinstance(value, dict) and "text" in value:
                    yield [value]


def _texts_in(items: Sequence[Any], sent: Sequence[str]) -> dict[str, str]:
    """Return the good items' texts by the id that was sent. One id with two texts says nothing about either."""
    texts: dict[str, str] = {}
    ambiguous = set()
    good = [item for item in items if isinstance(item, dict) and isinstance(item.get("text"), str)]
    for item in good:
        text = cut_at_word(one_line(item["text"]), TEXT_LIMIT)
        # A request for one product has an answer about that one, even under a wrong id.
        key = sent[0] if len(sent) == len(items) == 1 else _sent_id(item.get("id"))
        if key not in sent:
            continue
        if texts.setdefault(key, text) != text:
            ambiguous.add(key)
    if len(sent) == 1:
        return texts
    return {key: text for key, text in texts.items() if key not in ambiguous}


def _sent_id(value: object) -> str:
    """Return the number that was sent, of what a model made of it: 3, "03", "#3", "product 3"."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else ""
    numbers = _NUMBER.findall(normalize("NFKC", str(value)))
    return str(int(numbers[0])) if len(numbers) == 1 else ""


def _too_much(what: str) -> AIError:
    return AIError(
        "AI_INVALID_RESPONSE",
        f"The AI provider's answer is not usable ({what}: more values than any answer needs)",
        "Retry the run; if it stays like this, check that OPENAI_BASE_URL and AI_MODEL support structured outputs.",
    )
