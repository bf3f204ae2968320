"""Ends a stream when its caller's token expires, for the caller may have lost access since."""

import asyncio
import time
from typing import Any

from google.protobuf.message import Message

from servicekit.auth.principals import Principal, Role, current_principal
from servicekit.auth.tokens import LEEWAY
from servicekit.errors import Reason, ServiceError
from servicekit.rpc.interceptors.base import Behaviour, CallInterceptor, Context


class TokenExpiry(CallInterceptor):
    """Ends streams of responses with TOKEN_EXPIRED once their token has expired; the caller resumes with a new one.

    Streams between the services go on: their tokens last for minutes, and a run that they follow may take longer.
    """

    def wrap(self, handler: Any, method: str) -> Any:
        """Return the handler, with this around it when it streams responses. Other calls are short."""
        return super().wrap(handler, method) if handler.response_streaming else handler

    async def intercept(self, proceed: Behaviour, method: str, request: Any, context: Context) -> Message | None:
        """Serve the call until its token expires."""
        try:
            async with asyncio.timeout(_seconds_left(current_principal())) as lifetime:
                return await proceed(request, context)
        except TimeoutError:
            if not lifetime.expired():
                raise
            raise ServiceError(
                Reason.TOKEN_EXPIRED,
                "the token has expired while the stream was open; get a new one and resume with the last sequence or "
                "position",
            ) from None


def _seconds_left(principal: Principal) -> float | None:
    """Return for how long a stream may last; None: without end.

    A token that has expired within LEEWAY is still accepted; a stream with it ends after that.
    """
    if principal.expires is None or principal.role_in("*") is Role.SERVICE:
        return None
    left = principal.expires - time.time()
    return left if left > 0 else left + LEEWAY
