"""What watches have in common: a stream that is opened again where it was cut."""

import asyncio
import math
import random
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable
from typing import Any, Generic, TypeVar

import grpc

from runs_client.connection import Connection, Metadata
from runs_client.errors import ServiceCallError

IDLE_TIMEOUT = 45.0  # seconds without a message, three heartbeats, after which the connection counts as dead
FIRST_DELAY, LONGEST_DELAY = 0.1, 2.0  # seconds between connections
LONGEST_STATED_DELAY = 10.0  # seconds, of those that an answer states
GIVE_UP_AFTER = 60.0  # seconds without an answer of the service

_TRANSIENT = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
# What a connection that is cut in the middle looks like, when no service gave a reason: by a proxy after its own time
# limit, too, for a watch has no deadline.
_CUT = (
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
)

Response = TypeVar("Response")


class ResumingWatch(ABC, Generic[Response]):
    """A watcher over any number of connections.

    A kind of watch says how a stream is opened where the watcher is, and what moves that place on.
    """

    def __init__(self, connection: Connection, *, idle_timeout: float, give_up_after: float) -> None:
        self._connection = connection
        self._idle_timeout = idle_timeout
        self._give_up_after = give_up_after
        self._metadata: Metadata = ()  # what the last stream was opened with
        # When the service answered last, or the caller began to wait for it: what the caller takes is not its silence.
        self._waits_since = math.inf
        self._delay = FIRST_DELAY

    @abstractmethod
    def _call(self) -> tuple[Callable[..., Any], object]:
        """Return the method and the request of a stream that goes on where the watcher is."""

    @abstractmethod
    def _advance(self, response: Response) -> None:
        """Move the watcher's place behind this message."""

    @abstractmethod
    async def _ask(self) -> None:
        """Make a call that any service answers at once. Raises ServiceCallError."""

    async def _one_stream(self) -> AsyncGenerator[Response, None]:
        """Yield the messages of one call, until it ends or is cut."""
        self._waits_since = min(self._waits_since, time.monotonic())
        self._metadata = await self._connection.metadata()
        method, request = self._call()
        with self._connection.stream(method, request, self._metadata) as call:
            try:
                while True:
                    async with asyncio.timeout(self._idle_timeout):
                        response = await call.read()
                    if response is grpc.aio.EOF:
                        return
                    self._advance(response)
                    self._delay = FIRST_DELAY
                    yield response
                    self._waits_since = time.monotonic()
            except grpc.aio.AioRpcError as error:
                raise ServiceCallError.from_call(error, self._connection.target) from error
            except TimeoutError as error:
                raise self._unavailable(f"nothing came for {self._idle_timeout:.0f} s, not even a heartbeat") from error

    def _unavailable(self, message: str) -> ServiceCallError:
        return ServiceCallError(grpc.StatusCode.UNAVAILABLE, "", message, target=self._connection.target)

    async def _can_resume(self, error: ServiceCallError) -> bool:
        """Whether another stream may do better: the connection was cut, or the token has expired and there is a new
        one."""
        if error.code in _TRANSIENT or (error.code in _CUT and not error.reason):
            return True
        return error.reason == "TOKEN_EXPIRED" and await self._connection.metadata() != self._metadata

    async def _pause(self, failure: ServiceCallError) -> None:
        """Wait before the next connection, longer each time, and no shorter than the service says.

        Raises `failure` when the service is away for too long, or takes no watch for as long.
        """
        if time.monotonic() - self._waits_since > self._give_up_after:
            await self._require_answer(failure)
        spread = random.uniform(0.5, 1)  # noqa: S311  # spreads watchers, hides nothing
        stated = min(failure.retry_after or 0.0, LONGEST_STATED_DELAY)
        await self._connection.pause(max(self._delay * spread, stated * (0.5 + spread)))
        self._delay = min(self._delay * 2, LONGEST_DELAY)

    async def _require_answer(self, failure: ServiceCallError) -> None:
        """Raise `failure` unless the service answers, and would take another watch.

        Streams that are cut before the first heartbeat have no message while nothing happens: that does not mean that
        the service is away.
        """
        if failure.reason == "TOO_MANY_CALLS":
            raise failure
        try:
            await self._ask()
        except ServiceCallError:
            raise failure from None
        self._waits_since = time.monotonic()
