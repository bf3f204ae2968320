"""Page tokens: opaque, bound to their query, refused when altered.

A token is no authorization: the query it continues is checked like any other. So its digest needs no
secret; it keeps tokens from being edited or carried over to another query by mistake.
"""

import base64
import binascii
import hashlib
import json

from servicekit.errors import Reason, ServiceError


def encode(position: list[str], *, query: list[str]) -> str:
    """Return the token that continues `query` (its name and filters) after `position` (the last row's key)."""
    body = json.dumps(position, ensure_ascii=False, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(_digest(body, query) + body).rstrip(b"=").decode()


def decode(token: str, *, query: list[str], parts: int = 1) -> list[str]:
    """Return the position in `token`, which has so many `parts`.

    Raises ServiceError (PAGE_TOKEN_INVALID) when it was altered, made up, or belongs to another query.
    """
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        digest, body = raw[:8], raw[8:]
        if digest != _digest(body, query) or encode(json.loads(body), query=query) != token:
            raise ValueError
        position: list[str] = json.loads(body)
        if (
            not isinstance(position, list)
            or len(position) != parts
            or not all(isinstance(part, str) for part in position)
        ):
            raise ValueError
    except (ValueError, binascii.Error) as error:
        raise refused() from error
    return position


def refused() -> ServiceError:
    """Return the error of a token that is none of ours, for one whose position says nothing."""
    return ServiceError(
        Reason.PAGE_TOKEN_INVALID,
        "page_token was altered or belongs to a request with other filters; "
        "pass next_page_token as it came, with the same filters, or start again without it",
        field="page_token",
    )


def _digest(body: bytes, query: list[str]) -> bytes:
    return hashlib.sha256(json.dumps(query).encode() + b"\0" + body).digest()[:8]
