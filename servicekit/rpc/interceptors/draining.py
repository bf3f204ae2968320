"""Lets a server stop without cutting anybody off: refuses what comes, waits for what is under way."""

import asyncio
from datetime import timedelta
from typing import Any

from google.protobuf.message import Message

from servicekit.errors import Reason, ServiceError
from servicekit.rpc.interceptors.base import Call, CallInterceptor, Context

RETRY_AFTER = timedelta(seconds=1)
LAST_WORDS = 1.0  # seconds for the answers to calls that are ended


def shutting_down() -> ServiceError:
    """Return the error of a call that a stopping server does not serve."""
    return ServiceError(
        Reason.SHUTTING_DOWN,
        "this server is stopping; send the call again, to another one or in a moment",
        retry_after=RETRY_AFTER,
    )


class Draining(CallInterceptor):
    """Once closed, refuses every call with SHUTTING_DOWN; those it let in before can be waited for."""

    def __init__(self) -> None:
        self._closed = False
        self._under_way: set[asyncio.Task[Any]] = set()
        self._ended: set[asyncio.Task[Any]] = set()  # by us, while their callers still wait

    def close(self) -> None:
        """Let no more calls in."""
        self._closed = True

    async def finish(self, grace: float) -> None:
        """Return when every call has been answered; after `grace` seconds the rest is, with SHUTTING_DOWN."""
        if not self._under_way:
            return
        _, late = await asyncio.wait(self._under_way.copy(), timeout=grace)
        for task in late & self._under_way:
            self._ended.add(task)
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=LAST_WORDS)

    async def surround(self, call: Call, method: str, request: Message, context: Context) -> Message | None:
        """Serve the call, unless it is too late for it."""
        if self._closed:
            raise shutting_down()
        task = asyncio.current_task()
        assert task is not None
        self._under_way.add(task)
        try:
            return await call(request, context)
        except asyncio.CancelledError:
            # The caller's own cancellation, if there is one too, goes first: nobody is left to be told anything.
            if task in self._ended and not task.uncancel():
                raise shutting_down() from None
            raise
        finally:
            self._under_way.discard(task)
