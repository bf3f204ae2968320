"""Request bodies: read within limits, and JSON."""

import asyncio
import json
from http import HTTPStatus
from typing import Any, NoReturn

from starlette.datastructures import Headers
from starlette.types import Receive

from gateway.problems import Problem

CLOSE = {"connection": "close"}  # the rest of the body would be read as the next request


class ClientGone(Exception):
    """The client closed the connection before its request was complete."""


async def read(headers: Headers, receive: Receive, *, most_bytes: int, seconds: float) -> bytes:
    """Return a request's body. Raises Problem when it has more than `most_bytes` (413), or has not arrived within
    `seconds` (408); ClientGone."""
    length = headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > most_bytes:
        raise _too_large(most_bytes)
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                body += message.get("body", b"")
                if len(body) > most_bytes:
                    raise _too_large(most_bytes)
                if not message.get("more_body"):
                    return bytes(body)
    except TimeoutError:
        problem = f"the body did not arrive within {seconds:g} s"
        raise Problem(HTTPStatus.REQUEST_TIMEOUT, "REQUEST_TIMEOUT", problem, headers=CLOSE) from None


def parse(headers: Headers, body: bytes) -> Any:
    """Return the JSON of a body; an empty one is {}. Raises Problem."""
    if not body.strip():
        return {}
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    # A page of another origin can send other kinds without asking.
    if kind != "application/json" or headers.get("content-encoding", "identity") != "identity":
        problem = "send JSON: content-type: application/json, without a content-encoding"
        raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "MEDIA_TYPE_UNSUPPORTED", problem)
    try:
        return json.loads(body.decode(), object_pairs_hook=_without_duplicates, parse_constant=_refuse)
    except RecursionError:
        raise Problem.invalid("the body is nested too deeply") from None
    except UnicodeDecodeError:
        raise Problem.invalid("the body is not UTF-8") from None
    except ValueError as error:
        raise Problem.invalid(f"the body is no JSON: {error}") from None


def _too_large(most_bytes: int) -> Problem:
    problem = f"the body has more than {most_bytes:,} bytes"
    return Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "BODY_TOO_LARGE", problem, headers=CLOSE)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")
