"""The engine: pooled connections, transactions, and driver errors turned into ours in one place."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import psycopg
from sqlalchemy import exc, make_url
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from servicekit.errors import database_unavailable

STATEMENT_TIMEOUT = 30_000  # milliseconds
CONNECT_TIMEOUT = 2  # seconds
ANSWER_TIMEOUT = 15.0  # seconds; long enough for the largest apply


def driver_url(url: str) -> str:
    """Return `url` with psycopg 3 as its driver, whatever driver or none it names."""
    return make_url(url).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)


def psycopg_url(url: str) -> str:
    """Return `url` as psycopg itself takes it."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


class _Interrupted(psycopg.Error):
    """A cancellation, in a shape that SQLAlchemy does not throw a good connection away for."""


class _BoundedConnection(psycopg.AsyncConnection[Any]):
    """A connection whose server answers each statement in time, or is taken for lost, and that outlives cancellation.

    The server's own statement_timeout does not help against a server that stands still, nor does TCP: the kernel
    of such a machine goes on acknowledging.
    """

    answer_timeout = ANSWER_TIMEOUT

    async def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:  # noqa: ASYNC109
        """Wait as psycopg does, but not for ever."""
        try:
            return await super().wait(gen, interval, timeout or self.answer_timeout)
        except psycopg.errors._WaitTimeout:
            if timeout is None:
                self.pgconn.finish()  # what it is doing there nobody knows
                raise psycopg.OperationalError(f"no answer within {self.answer_timeout} s") from None
            raise
        except asyncio.CancelledError:
            # psycopg has stopped the statement and read its end: the connection is as good as before.
            raise _Interrupted("cancelled") from None


async def _connect(answer_timeout: float, *arguments: Any, **options: Any) -> psycopg.AsyncConnection[Any]:
    connection = await _BoundedConnection.connect(*arguments, **options)
    connection.answer_timeout = answer_timeout
    return connection


class Database:
    """A service's PostgreSQL.

    Takes the URL, the largest number of connections, the name they show in pg_stat_activity, and the seconds that
    callers wait, at most, for a free connection and for the answer to a statement. Statements name their schema.
    Errors of the connection become ServiceError (DATABASE_UNAVAILABLE).
    """

    def __init__(
        self, url: str, *, pool_size: int, application_name: str, answer_timeout: float = ANSWER_TIMEOUT
    ) -> None:
        self._engine = create_async_engine(
            driver_url(url),
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=min(5.0, answer_timeout),
            hide_parameters=True,  # what customers sent does not belong into logs
            connect_args={
                "async_creator_fn": partial(_connect, answer_timeout),
                "connect_timeout": CONNECT_TIMEOUT,
                "application_name": application_name,
                "options": f"-c statement_timeout={STATEMENT_TIMEOUT} -c timezone=UTC",
                "keepalives_idle": 10,
                "keepalives_interval": 5,
                "keepalives_count": 3,
            },
        )
        self._autocommit = self._engine.execution_options(isolation_level="AUTOCOMMIT")

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """Enter a transaction; it commits at the end, or rolls back when the body raises."""
        with _translated():
            async with self._engine.begin() as connection:
                yield connection

    @asynccontextmanager
    async def autocommit(self) -> AsyncIterator[AsyncConnection]:
        """Enter a connection on which every statement is its own transaction: one round trip each."""
        with _translated():
            async with self._autocommit.connect() as connection:
                yield connection

    async def close(self) -> None:
        """Close all connections."""
        await self._engine.dispose()


@contextmanager
def _translated() -> Iterator[None]:
    """Turn errors of the connection into DATABASE_UNAVAILABLE; let all others through."""
    try:
        yield
    except exc.DBAPIError as error:
        if isinstance(error.orig, _Interrupted):
            raise asyncio.CancelledError from None
        if isinstance(error, exc.OperationalError | exc.InterfaceError):
            raise database_unavailable() from error
        raise
    except _Interrupted:
        raise asyncio.CancelledError from None
    except exc.TimeoutError as error:
        raise database_unavailable() from error
