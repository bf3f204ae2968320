"""Page tokens: opaque, bound to their query, refused when altered.

A token authorizes nothing: the query that it continues is checked like any other. So its digest needs no secret. It
detects tokens that were edited, or sent with another query by mistake.
"""

import base64
import hashlib
import json
from typing import TypeGuard

from servicekit.errors import Reason, ServiceError

MAX_CHARACTERS = 4 * 1024  # of a token; twice what the longest product id needs


def encode(position: list[str], *, query: list[str]) -> str:
    """Return the token that continues `query` (its name and filters) after `position` (the last row's key)."""
    body = json.dumps(position, ensure_ascii=False, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(_digest(body, query) + body).rstrip(b"=").decode()


def decode(token: str, *, query: list[str], parts: int = 1, longest: int = MAX_CHARACTERS) -> list[str]:
    """Return the position in `token`, of at most `longest` characters: a list of `parts` texts without NUL.

    Raises ServiceError (PAGE_TOKEN_INVALID) when it was altered, made up, or belongs to another query. The caller has
    to check the parts: anyone can make a token with any text in it.
    """
    if len(token) > longest:
        raise refused()
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        digest, body = raw[:8], raw[8:]
        if digest != _digest(body, query):
            raise ValueError
        position = json.loads(body)
        if not _is_position(position, parts) or encode(position, query=query) != token:
            raise ValueError
    # ValueError includes UnicodeError and binascii.Error. RecursionError: a thousand nested brackets.
    except (ValueError, RecursionError) as error:
        raise refused() from error
    return position


def _is_position(position: object, parts: int) -> TypeGuard[list[str]]:
    return (
        isinstance(position, list)
        and len(position) == parts
        and all(isinstance(part, str) and "\0" not in part for part in position)  # PostgreSQL takes no NUL
    )


def refused() -> ServiceError:
    """Return the error of an invalid token; for callers that find the position in it invalid."""
    return ServiceError(
        Reason.PAGE_TOKEN_INVALID,
        "page_token was altered or belongs to a request with other filters; "
        "pass next_page_token as it came, with the same filters, or start again without it",
        field="page_token",
    )


def _digest(body: bytes, query: list[str]) -> bytes:
    return hashlib.sha256(json.dumps(query).encode() + b"\0" + body).digest()[:8]
