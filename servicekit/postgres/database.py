"""The database: pooled connections, transactions, and driver errors turned into ours in one place.

SQLAlchemy keeps the pool and knows the schema; statements go straight to psycopg, which takes a fifth of the time.
"""

import re
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import namedtuple_row
from sqlalchemy import PoolProxiedConnection, TextClause, create_engine, event, exc, make_url, text
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.util import greenlet_spawn

from servicekit.errors import database_unavailable

Row = Any  # a named tuple of the statement's columns

STATEMENT_TIMEOUT = 30_000  # milliseconds
# Milliseconds after which a transaction that does nothing is ended, and its locks with it: who has it stands still, and
# others wait for what it locked. Ours do one thing after the other.
IDLE_TIMEOUT = 5_000
# Every statement has an index that fits it, so there is one good plan whatever the sizes: made once, where the planner
# would make a new one for every call (it takes longer than most statements do), and never a scan of the table that was
# small when it was made. And a queue's indexes are full of entries of rows that have moved on: an index scan marks
# them, and the next one passes them over; a bitmap scan reads all of them every time, until the next VACUUM.
PLANS = "-c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c enable_bitmapscan=off"
CONNECT_TIMEOUT = 2  # seconds
ANSWER_TIMEOUT = 15.0  # seconds; long enough for the largest apply
# A primary that became a standby takes no writes; psycopg counts the error it says so with among the internal ones.
LOST = (psycopg.OperationalError, psycopg.InterfaceError, psycopg.errors.ReadOnlySqlTransaction)


def driver_url(url: str) -> str:
    """Return `url` with psycopg 3 as its driver, whatever driver or none it names."""
    return make_url(url).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)


def psycopg_url(url: str) -> str:
    """Return `url` as psycopg itself takes it."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


class _BoundedConnection(psycopg.AsyncConnection[Any]):
    """A connection whose server answers each statement in time, or is taken for lost.

    The server's own statement_timeout does not help against a server that stands still, nor does TCP: the kernel
    of such a machine goes on acknowledging.
    """

    answer_timeout = ANSWER_TIMEOUT

    async def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:  # noqa: ASYNC109
        """Wait as psycopg does, but not for ever."""
        try:
            return await super().wait(gen, interval, self.answer_timeout if timeout is None else timeout)
        except psycopg.errors._WaitTimeout:
            if timeout is None:
                self.pgconn.finish()  # what it is doing there nobody knows
                raise psycopg.OperationalError(f"no answer within {self.answer_timeout} s") from None
            raise


async def connect(answer_timeout: float, *arguments: Any, **options: Any) -> psycopg.AsyncConnection[Any]:
    """Return a connection of psycopg's whose server has `answer_timeout` seconds for each answer."""
    connection = await _BoundedConnection.connect(*arguments, autocommit=True, **options)
    connection.answer_timeout = answer_timeout
    return connection


_ARRAY = re.compile(r"CAST\(%\((\w+)\)s AS ([a-z ]+)\[\]\)")


@lru_cache(maxsize=512)
def _in_psycopgs_words(statement: str) -> str:
    """Return a statement with :name parameters as psycopg takes it.

    Arrays go in binary: as text every element is searched for what must be quoted, which takes four times as long.
    """
    compiled = str(text(statement).compile(dialect=PGDialect_psycopg()))  # type: ignore[no-untyped-call]
    return _ARRAY.sub(r"CAST(%(\1)b AS \2[])", compiled)


class Rows(list[Row]):
    """What a statement returned, and how many rows it touched (`rowcount`)."""

    rowcount = 0

    def all(self) -> list[Row]:
        """Return all rows."""
        return self

    def first(self) -> Row | None:
        """Return the first row, or None."""
        return self[0] if self else None

    def one(self) -> Row:
        """Return the only row."""
        (row,) = self
        return row

    def one_or_none(self) -> Row | None:
        """Return the only row, or None when there is none."""
        return self.one() if self else None

    def scalar_one(self) -> Any:
        """Return the first column of the only row."""
        return self.one()[0]

    def scalar_one_or_none(self) -> Any | None:
        """Return the first column of the only row, or None when there is none."""
        return self.scalar_one() if self else None

    def scalars(self) -> list[Any]:
        """Return the first column of all rows."""
        return [row[0] for row in self]


class Connection:
    """A connection as the stores use it: statements have :name parameters, rows have names."""

    def __init__(self, driver: psycopg.AsyncConnection[Any]) -> None:
        self._driver = driver

    async def execute(self, statement: TextClause, parameters: Mapping[str, object] | None = None) -> Rows:
        """Execute one statement and return all its rows."""
        cursor = self._driver.cursor(row_factory=namedtuple_row)
        await cursor.execute(_in_psycopgs_words(statement.text), parameters or {}, binary=True)
        rows = Rows(await cursor.fetchall() if cursor.description else ())
        rows.rowcount = cursor.rowcount
        return rows


class Database:
    """A service's PostgreSQL.

    Takes the URL, the largest number of connections, the name they show in pg_stat_activity, and the seconds that
    callers wait, at most, for a free connection and for the answer to a statement. Statements name their schema.
    Errors of the connection become ServiceError (DATABASE_UNAVAILABLE). `beside` is another pool of the same process
    and server: when one of them finds a connection lost, neither trusts those that are as old.
    """

    def __init__(
        self,
        url: str,
        *,
        pool_size: int,
        application_name: str,
        answer_timeout: float = ANSWER_TIMEOUT,
        beside: "Database | None" = None,
    ) -> None:
        # Not create_async_engine: that imports the ORM, a tenth of a second at every start.
        self._engine = create_engine(
            make_url(url).set(drivername="postgresql+psycopg_async"),
            pool_size=pool_size,
            max_overflow=0,
            pool_use_lifo=True,
            pool_timeout=min(5.0, answer_timeout),
            pool_reset_on_return=None,  # every statement outside of `transaction` is its own
            use_native_hstore=False,  # it costs a query at the start
            connect_args={
                "async_creator_fn": partial(connect, answer_timeout),
                "connect_timeout": CONNECT_TIMEOUT,
                "application_name": application_name,
                "options": f"-c statement_timeout={STATEMENT_TIMEOUT} -c timezone=UTC"
                f" -c idle_in_transaction_session_timeout={IDLE_TIMEOUT} {PLANS}",
                "keepalives_idle": 10,
                "keepalives_interval": 5,
                "keepalives_count": 3,
            },
        )
        self._loss: _Loss = beside._loss if beside else _Loss()
        event.listen(self._engine, "connect", _note_birth)
        event.listen(self._engine, "checkout", self._refuse_suspects)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Enter a transaction; it commits at the end, or rolls back when the body raises."""
        async with self._checked_out() as driver, driver.transaction():
            yield Connection(driver)

    @asynccontextmanager
    async def autocommit(self) -> AsyncIterator[Connection]:
        """Enter a connection on which every statement is its own transaction: one round trip each."""
        async with self._checked_out() as driver:
            yield Connection(driver)

    async def close(self) -> None:
        """Close all connections."""
        await greenlet_spawn(self._engine.dispose)

    @asynccontextmanager
    async def _checked_out(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        with _translated():
            proxy = await greenlet_spawn(self._engine.raw_connection)
            driver: psycopg.AsyncConnection[Any] = proxy.driver_connection  # type: ignore[assignment]
            try:
                yield driver
            except psycopg.errors.ReadOnlySqlTransaction:
                driver.pgconn.finish()  # the next one may lead to the new primary
                raise
            finally:
                self._give_back(proxy, driver)

    def _give_back(self, proxy: PoolProxiedConnection, driver: psycopg.AsyncConnection[Any]) -> None:
        if driver.info.transaction_status is not TransactionStatus.IDLE:  # lost, or nobody knows where it stands
            driver.pgconn.finish()
            self._loss.at = time.monotonic()
        proxy.close()

    def _refuse_suspects(self, driver: Any, record: Any, _proxy: object) -> None:
        """Let the pool replace a connection that is lost, or as old as one that was."""
        if driver.closed or record.info["born"] < self._loss.at:
            raise exc.DisconnectionError


@dataclass
class _Loss:
    """When a connection was found broken; those that are older are not trusted any more."""

    at: float = 0.0


def _note_birth(_driver: object, record: Any) -> None:
    record.info["born"] = time.monotonic()


@contextmanager
def _translated() -> Iterator[None]:
    """Turn errors of the connection into DATABASE_UNAVAILABLE; let all others through."""
    try:
        yield
    except LOST as error:
        raise database_unavailable() from error
    except (exc.OperationalError, exc.InterfaceError, exc.TimeoutError, exc.InvalidRequestError) as error:
        raise database_unavailable() from error
