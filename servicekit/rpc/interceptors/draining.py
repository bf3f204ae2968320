"""Lets a server stop without cutting calls off: refuses new ones and waits for those in flight."""

import asyncio
from datetime import timedelta
from typing import Any

from google.protobuf.message import Message

from servicekit.errors import Reason, ServiceError
from servicekit.rpc.interceptors.base import Behaviour, CallInterceptor, Context

RETRY_AFTER = timedelta(seconds=1)
ANSWER_TIMEOUT = 1.0  # seconds in which aborted calls have to answer


def shutting_down() -> ServiceError:
    """Return the error of a call that a stopping server does not serve."""
    return ServiceError(
        Reason.SHUTTING_DOWN,
        "this server is stopping; send the call again, to another one or in a moment",
        retry_after=RETRY_AFTER,
    )


class Draining(CallInterceptor):
    """After `close`, refuses every call with SHUTTING_DOWN; `finish` waits for the calls it let pass before."""

    def __init__(self) -> None:
        self._closed = False
        self._in_flight: set[asyncio.Task[Any]] = set()
        self._aborted: set[asyncio.Task[Any]] = set()  # by us; their callers still wait for an answer

    def close(self) -> None:
        """Refuse all calls from now on."""
        self._closed = True

    async def finish(self, grace: float) -> None:
        """Return when every call has been answered. After `grace` seconds abort the rest with SHUTTING_DOWN."""
        if not self._in_flight:
            return
        _, late = await asyncio.wait(self._in_flight.copy(), timeout=grace)
        for task in late & self._in_flight:
            self._aborted.add(task)
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=ANSWER_TIMEOUT)

    async def intercept(self, proceed: Behaviour, method: str, request: Message, context: Context) -> Message | None:
        """Serve the call, unless the server is stopping."""
        if self._closed:
            raise shutting_down()
        task = asyncio.current_task()
        assert task is not None
        self._in_flight.add(task)
        try:
            return await proceed(request, context)
        except asyncio.CancelledError:
            # When the caller has cancelled the call as well, there is no one to answer, and ErrorTranslation must not
            # try.
            if task in self._aborted and not task.uncancel():
                raise shutting_down() from None
            raise
        finally:
            self._in_flight.discard(task)
