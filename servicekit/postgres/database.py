"""The database: statements, transactions, and the driver's errors turned into ours in one place.

Statements are psycopg's: `%(name)s` for a value, `%(name)b` for an array (in binary; as text every element is searched
for what must be quoted, which takes four times as long), `%%` for a percent sign.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg.rows import namedtuple_row

from servicekit.errors import database_unavailable, schema_mismatch
from servicekit.postgres.address import password
from servicekit.postgres.pool import ANSWER_TIMEOUT, Loss, Pool, PoolUse
from servicekit.postgres.server_settings import OPTIONS
from servicekit.telemetry.outages import Outage, first_line

logger = logging.getLogger(__name__)

Row = Any  # a named tuple of the statement's columns

# A primary that became a standby takes no writes; psycopg counts the error it says so with among the internal ones.
CONNECTION_ERRORS = (psycopg.OperationalError, psycopg.InterfaceError, psycopg.errors.ReadOnlySqlTransaction)
# What our statements meet in a schema that is missing, of another release, or another role's.
SCHEMA_ERRORS = (
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.InvalidSchemaName,
    psycopg.errors.InsufficientPrivilege,
)


class Querier(ABC):
    """Where statements run: on a database, each a transaction of its own, or on a connection."""

    @abstractmethod
    async def _run(self, statement: str, parameters: Mapping[str, object] | None) -> tuple[list[Row], int]: ...

    async def execute(self, statement: str, parameters: Mapping[str, object] | None = None) -> int:
        """Run a statement and return how many rows it touched."""
        return (await self._run(statement, parameters))[1]

    async def fetch_all(self, statement: str, parameters: Mapping[str, object] | None = None) -> list[Row]:
        """Run a statement and return all its rows."""
        return (await self._run(statement, parameters))[0]

    async def fetch_one(self, statement: str, parameters: Mapping[str, object] | None = None) -> Row:
        """Run a statement and return its only row. Raises ValueError when it is not one."""
        (row,) = await self.fetch_all(statement, parameters)
        return row

    async def fetch_optional(self, statement: str, parameters: Mapping[str, object] | None = None) -> Row | None:
        """Run a statement and return its first row, or None."""
        rows = await self.fetch_all(statement, parameters)
        return rows[0] if rows else None


class Connection(Querier):
    """A connection: its statements are one transaction, or one each, as the Database says that gave it."""

    def __init__(self, driver: psycopg.AsyncConnection[Any]) -> None:
        self._driver = driver

    async def _run(self, statement: str, parameters: Mapping[str, object] | None) -> tuple[list[Row], int]:
        cursor = self._driver.cursor(row_factory=namedtuple_row)
        await cursor.execute(statement, parameters or {}, binary=True)
        return await cursor.fetchall() if cursor.description else [], cursor.rowcount


class Database(Querier):
    """A service's PostgreSQL; what is run on it directly is a transaction of its own, in one round trip.

    Takes the URL, the largest number of connections, the name they show in pg_stat_activity, and the seconds that
    callers wait, at most, for a free connection and for the answer to a statement. Statements name their schema.
    Errors of the connection become ServiceError (DATABASE_UNAVAILABLE, or SCHEMA_MISMATCH where the schema
    is not ours). `beside` is another pool of the same process
    and server: when one of them finds a connection lost, both discard those that are as old.
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
        self._application_name = application_name
        self._password = password(url)
        self._loss: Loss = beside._loss if beside else Loss()
        self._outage: Outage = beside._outage if beside else Outage("the database cannot be used", logger)
        self._pool = Pool(
            url,
            size=pool_size,
            application_name=application_name,
            options=OPTIONS,
            answer_timeout=answer_timeout,
            loss=self._loss,
        )

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Enter a transaction; it commits at the end, or rolls back when the body raises."""
        async with self._connection() as driver, driver.transaction():
            yield Connection(driver)

    @property
    def is_up(self) -> bool:
        """Whether the last statement found the database."""
        return not self._outage.reason

    def pool_use(self) -> PoolUse:
        """Return how many connections there are, and what they are doing."""
        return self._pool.use()

    async def close(self) -> None:
        """Close all connections."""
        await self._pool.close()

    async def _run(self, statement: str, parameters: Mapping[str, object] | None) -> tuple[list[Row], int]:
        async with self._connection() as driver:
            return await Connection(driver)._run(statement, parameters)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """Enter a connection of the pool; turn its errors and those of a foreign schema into ours, and let all others
        through."""
        try:
            async with self._pool.connection() as driver:
                try:
                    yield driver
                except psycopg.errors.ReadOnlySqlTransaction:
                    driver.pgconn.finish()  # the next one may lead to the new primary
                    raise
            self._outage.ended()
        except CONNECTION_ERRORS as error:
            self._outage.failed(first_line(error, self._password))
            raise database_unavailable() from error
        except SCHEMA_ERRORS as error:
            raise schema_mismatch(self._application_name) from error
