"""The HTTP client below the OpenAI package: no redirects, no cookies, and a limit on the size of an answer."""

import asyncio
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final

from httpx2 import Request, Response
from openai import DefaultAsyncHttpxClient

ANSWER_LIMIT: Final = 4 * 1024 * 1024  # bytes, unpacked; a hundred texts of the greatest length take a fifth of it
ERROR_LIMIT: Final = 64 * 1024  # bytes of an answer that is none; the rest is not read
# A server may send its answer byte by byte, and each piece costs as much time as a kilobyte in one.
_LEAST: Final = 64  # bytes that a piece counts for
_TURN: Final = 256 * _LEAST  # bytes after which the others of the event loop have their turn
# What described the body on its way; it is unpacked and in one piece now.
_OF_THE_WAY: Final = frozenset({"content-encoding", "content-length", "transfer-encoding"})


class AnswerTooLongError(Exception):
    """An answer of more than ANSWER_LIMIT bytes. Nothing of it is kept."""


class OpenAIClient(DefaultAsyncHttpxClient):
    """A client with the OpenAI package's own pool and limits.

    Redirects are not followed: product texts go to the address in the settings and to no other. Cookies are not kept.
    It asks for uncompressed answers. Those that are compressed all the same it decompresses, up to ANSWER_LIMIT.
    """

    def __init__(self) -> None:
        super().__init__(
            follow_redirects=False,
            headers={"accept-encoding": "identity"},
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        )

    async def send(self, request: Request, *, stream: bool = False, **options: Any) -> Response:
        """Send a request and return the whole answer; `stream` is ignored.

        Of an answer other than 2xx it may be the beginning. Raises AnswerTooLongError, and what httpx2 raises.
        """
        response = await super().send(request, stream=True, **options)
        try:
            body = await _read(response)
        finally:
            await response.aclose()
        return Response(
            response.status_code,
            headers=[(name, value) for name, value in response.headers.multi_items() if name not in _OF_THE_WAY],
            content=body,
            request=request,
        )


async def _read(response: Response) -> bytes:
    body, counted, turn = bytearray(), 0, _TURN
    limit = ANSWER_LIMIT if response.is_success else ERROR_LIMIT
    # The decoders of httpx2 hand out what they unpack in pieces of up to 1 MB, so no bomb gets to go off.
    async for piece in response.aiter_bytes():
        counted += max(len(piece), _LEAST)
        if counted > limit:
            if response.is_success:
                raise AnswerTooLongError
            return bytes(body)
        body += piece
        if counted > turn:
            turn = counted + _TURN
            await asyncio.sleep(0)
    return bytes(body)
