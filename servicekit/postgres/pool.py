"""A pool of connections to PostgreSQL that answers or fails within a bound.

Not psycopg_pool: when there is no server it connects in the background, and callers wait for their whole timeout,
although the first refused connection shows that it is down.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import psycopg
from psycopg.pq import TransactionStatus

from servicekit.postgres.address import keywords

CONNECT_TIMEOUT = 2  # seconds
# PgBouncer's words, unless it has ignore_startup_parameters = options. The role has the settings then.
REFUSAL = "unsupported startup parameter"
ANSWER_TIMEOUT = 15.0  # seconds; long enough for the largest apply


class NoFreeConnection(psycopg.OperationalError):
    """All connections of a pool are in use, and none came back in time."""


class BoundedConnection(psycopg.AsyncConnection[Any]):
    """A connection whose server answers each statement in time, or counts as lost.

    The server's own statement_timeout does not help against a server that stands still, nor does TCP: the kernel
    of a frozen machine goes on acknowledging.
    """

    answer_timeout = ANSWER_TIMEOUT
    opened_at = 0.0  # by time.monotonic()

    async def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:  # noqa: ASYNC109
        """Wait as psycopg does, but at most `answer_timeout`."""
        try:
            return await super().wait(gen, interval, self.answer_timeout if timeout is None else timeout)
        except psycopg.errors._WaitTimeout:
            if timeout is None:
                self.pgconn.finish()  # the statement may still be running there
                raise psycopg.OperationalError(f"no answer within {self.answer_timeout} s") from None
            raise


async def connect(url: str, *, answer_timeout: float, application_name: str, options: str = "") -> BoundedConnection:
    """Return a connection whose server has `answer_timeout` seconds for each answer."""
    connection = await BoundedConnection.connect(
        autocommit=True,
        **{
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            **keywords(url, options=options),
            "connect_timeout": CONNECT_TIMEOUT,
            "application_name": application_name,
        },
    )
    connection.answer_timeout = answer_timeout
    connection.opened_at = time.monotonic()
    return connection


@dataclass
class Loss:
    """When a connection was found broken; connections opened before that are stale."""

    at: float = 0.0


class PoolUse(NamedTuple):
    """How a pool stands."""

    size: int  # connections that it may have
    busy: int
    idle: int
    waiting: int  # for a connection
    timeouts: int  # waits in vain, so far


class Pool:
    """Up to `size` connections, opened when they are needed; the one used last is used first.

    `options` go to the server as they are, unless a pooler in between refuses them. Pools of one process and server
    share a `loss`.
    """

    def __init__(
        self, url: str, *, size: int, application_name: str, options: str, answer_timeout: float, loss: Loss
    ) -> None:
        self._url = url
        self._application_name = application_name
        self._options = options
        self._answer_timeout = answer_timeout
        self._loss = loss
        self._timeout = min(5.0, answer_timeout)
        self._size = size
        self._free = asyncio.Semaphore(size)
        self._busy = self._waiting = self._timeouts = 0
        self._idle: list[BoundedConnection] = []
        self._is_closed = False

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[BoundedConnection]:
        """Enter a connection. Raises psycopg.OperationalError when none is free in time, or the server is away."""
        self._waiting += 1
        try:
            async with asyncio.timeout(self._timeout):
                await self._free.acquire()
        except TimeoutError:
            self._timeouts += 1
            raise NoFreeConnection(f"no free connection within {self._timeout} s") from None
        finally:
            self._waiting -= 1
        self._busy += 1
        try:
            connection = self._newest_idle() or await self._connect()
            try:
                yield connection
            finally:
                self._put_back(connection)
        finally:
            self._busy -= 1
            self._free.release()

    def use(self) -> PoolUse:
        """Return how the pool stands; from any thread."""
        return PoolUse(self._size, self._busy, len(self._idle), self._waiting, self._timeouts)

    async def close(self) -> None:
        """Close all connections; those in use when they come back."""
        self._is_closed = True
        while self._idle:
            await self._idle.pop().close()

    def _newest_idle(self) -> BoundedConnection | None:
        self._discard_stale()
        return self._idle.pop() if self._idle else None

    def _discard_stale(self) -> None:
        """Close the connections that are as old as one that was lost: the same failure has hit them."""
        while self._idle and (self._idle[-1].closed or self._idle[-1].opened_at < self._loss.at):
            stale = self._idle.pop()
            stale.pgconn.finish()

    def _put_back(self, connection: BoundedConnection) -> None:
        if connection.info.transaction_status is not TransactionStatus.IDLE:  # lost, or in an unknown state
            connection.pgconn.finish()
            self._loss.at = time.monotonic()
        elif self._is_closed:
            connection.pgconn.finish()
        else:
            self._idle.append(connection)

    async def _connect(self) -> BoundedConnection:
        try:
            return await self._connect_with(self._options)
        except psycopg.OperationalError as error:
            if not self._options or REFUSAL not in str(error):
                raise
            connection = await self._connect_with("")
            self._options = ""  # from now on
            return connection

    async def _connect_with(self, options: str) -> BoundedConnection:
        return await connect(
            self._url,
            answer_timeout=self._answer_timeout,
            application_name=self._application_name,
            options=options,
        )
