"""Reads the errors of providers, in all the forms that they have."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from executor_service.ai.waits import wait_of

# What an error without a status of its own means. Names of OpenAI, Anthropic and google.rpc.Code.
_STATUS_OF: Final[Mapping[str, int]] = {
    "invalid_argument": 400,
    "invalid_request_error": 400,
    "bad_request": 400,
    "failed_precondition": 400,
    "invalid_api_key": 401,
    "authentication_error": 401,
    "unauthenticated": 401,
    "unauthorized": 401,
    "permission_denied": 403,
    "permission_error": 403,
    "forbidden": 403,
    "model_not_found": 404,
    "not_found": 404,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "rate_limit_reached": 429,
    "too_many_requests": 429,
    "resource_exhausted": 429,
    "timeout": 504,
    "timeout_error": 504,
    "deadline_exceeded": 504,
}
_WORDS: Final = ("message", "detail", "error_description", "description", "error_message", "msg", "status_msg", "title")
_NAMES: Final = ("code", "type", "status", "reason", "error_code", "errcode", "status_code", "statusCode")
_WITHIN: Final = ("error", "errors", "base_resp", "innererror")
_DEPTH: Final = 6  # of one in another
_BEGINNINGS_OF_MARKUP: Final = ("<", "{", "[")
_TEXT_LIMIT: Final = 2_000  # characters of an answer that is but a text


@dataclass(frozen=True, slots=True)
class Complaint:
    """An error as a provider stated it. `status` decides; for an HTTP 200 it is the status in the body.

    `names` are its codes and types in lower case. `words` is its message, not yet redacted.
    """

    http_status: int
    status: int
    names: frozenset[str]
    words: str
    code: str
    wait_seconds: float | None

    @property
    def has_status(self) -> bool:
        """Whether a good HTTP status came with one of an error."""
        return self.status not in (self.http_status, HTTPStatus.INTERNAL_SERVER_ERROR)

    @property
    def place(self) -> str:
        """Where the status was."""
        return f"HTTP {self.http_status}, code {self.status}" if self.has_status else f"HTTP {self.http_status}"


def complaint(http_status: int, headers: Mapping[str, str], body: object) -> Complaint:
    """Return the error that an answer reports by its status or in its body."""
    layers = list(_layers(body, _DEPTH))
    names = [name for layer in layers for name in _names_in(layer)]
    words = next((words for layer in reversed(layers) if (words := _words_in(layer))), "")
    return Complaint(
        http_status=http_status,
        status=http_status if http_status >= HTTPStatus.BAD_REQUEST else _status_of(names),
        names=frozenset(str(name).lower() for name in names),
        words=words,
        code=next((code for layer in reversed(layers) if isinstance(code := layer.get("code"), str) and code), ""),
        wait_seconds=wait_of(headers, body, words),
    )


def body_of_error(content: bytes) -> object:
    """Return what the body of an error says: JSON, a text, or nothing of use."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        text = content[: 4 * _TEXT_LIMIT].decode(errors="replace").strip()
    # Proxies answer with pages of HTML, or half a document: the status says more.
    return None if text.startswith(_BEGINNINGS_OF_MARKUP) else text[:_TEXT_LIMIT]


def complains(answer: object) -> bool:
    """Whether an answer with a good status says that something went wrong, instead of a completion or beside it."""
    if isinstance(answer, list):
        return bool(answer) and complains(answer[0])
    if not isinstance(answer, dict):
        return isinstance(answer, str) and bool(answer.strip())
    if any(answer.get(name) for name in ("error", "errors")):
        return True
    choices = answer.get("choices")
    if isinstance(choices, list) and choices:
        choice = choices[0]
        return isinstance(choice, dict) and bool(choice.get("error") or choice.get("finish_reason") == "error")
    return any(_words_in(layer) for layer in _layers(answer, _DEPTH))


def _layers(body: object, depth: int) -> Iterator[dict[str, Any]]:
    """Yield the objects of an error from the outermost to the one in the middle; a text is one with a message."""
    if isinstance(body, str):
        yield {"message": body}
    elif isinstance(body, list) and body and depth:
        yield from _layers(body[0], depth - 1)
    elif isinstance(body, dict):
        yield body
        if depth:
            for inner in _inner_of(body):
                yield from _layers(inner, depth - 1)


def _inner_of(body: dict[str, Any]) -> Iterator[object]:
    choices = body.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        yield choices[0].get("error")
    details = body.get("details")
    for detail in details[:5] if isinstance(details, list) else ():
        if isinstance(detail, dict) and isinstance(reason := detail.get("reason"), str):
            yield {"reason": reason}
    for name in _WITHIN:
        inner = body.get(name)
        # Beside a message an error that is a word is its name: {"error": "invalid_request", "message": ...}
        yield {"code": inner} if isinstance(inner, str) and _words_in(body) else inner


def _names_in(layer: Mapping[str, Any]) -> Iterator[str | int]:
    for name in _NAMES:
        value = layer.get(name)
        if isinstance(value, str | int) and not isinstance(value, bool) and value != "":
            yield value


def _words_in(layer: Mapping[str, Any]) -> str:
    said = next((words for name in _WORDS if (words := _text_in(layer.get(name)))), "")
    metadata = layer.get("metadata")
    if isinstance(metadata, dict) and isinstance(raw := metadata.get("raw"), str):  # what stands behind a gateway said
        return f"{said}: {raw}" if said else raw
    return said


def _text_in(value: object) -> str:
    for _ in range(_DEPTH):
        if isinstance(value, list) and value:
            value = value[0]
        elif isinstance(value, dict):
            value = next((value[name] for name in _WORDS if value.get(name)), None)
    return value.strip() if isinstance(value, str) else ""


def _status_of(names: list[str | int]) -> int:
    for name in reversed(names):
        if str(name).isdecimal() and HTTPStatus.BAD_REQUEST <= int(name) < 600:  # no HTTP status
            return int(name)
    for name in reversed(names):
        if status := _STATUS_OF.get(str(name).lower()):
            return status
    return HTTPStatus.INTERNAL_SERVER_ERROR
