"""Ends a stream when its caller's token expires: whoever has lost access must not go on reading."""

import asyncio
import time
from typing import Any

from google.protobuf.message import Message

from servicekit.auth.principals import Principal, Role, current_principal
from servicekit.auth.tokens import LEEWAY
from servicekit.errors import Reason, ServiceError
from servicekit.rpc.interceptors.base import Call, CallInterceptor, Context


class TokenExpiry(CallInterceptor):
    """Ends streams of responses with TOKEN_EXPIRED once their token has expired; the caller resumes with a new one.

    Not those of the services themselves: their tokens live for minutes, and a run that they follow for longer.
    """

    def wrap(self, handler: Any, method: str) -> Any:
        """Return the handler, surrounded when it streams; other calls are over before their token is."""
        return super().wrap(handler, method) if handler.response_streaming else handler

    async def surround(self, call: Call, method: str, request: Any, context: Context) -> Message | None:
        """Serve the call for as long as its token lasts."""
        try:
            async with asyncio.timeout(_seconds_left(current_principal())) as lifetime:
                return await call(request, context)
        except TimeoutError:
            if not lifetime.expired():
                raise
            raise ServiceError(
                Reason.TOKEN_EXPIRED,
                "the token has expired while the stream was open; get a new one and resume with the last sequence",
            ) from None


def _seconds_left(principal: Principal) -> float | None:
    """Return for how long a stream may go on; None: for ever.

    A token that has just expired is accepted for the leeway that clocks get; a stream under it ends with that.
    """
    if principal.expires is None or principal.role_in("*") is Role.SERVICE:
        return None
    left = principal.expires - time.time()
    return left if left > 0 else left + LEEWAY
