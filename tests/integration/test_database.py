"""Database over a real PostgreSQL that is not always there."""

import asyncio
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from psycopg import sql

from devstack.postgres import Postgres
from servicekit.errors import Reason, ServiceError
from servicekit.postgres.database import Database
from servicekit.postgres.pool import CONNECT_TIMEOUT
from tests.support.database import frozen, kill_backends
from tests.support.prepared import Prepared
from tests.support.processes import wait_until_gone
from tests.support.waiting import eventually


async def one(database: Database) -> int:
    return int((await database.fetch_one("SELECT 1"))[0])


def is_asleep(url: str) -> bool:
    with psycopg.connect(url) as connection:
        query = "SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
        return connection.execute(query).rowcount > 0


async def refusal(database: Database) -> ServiceError:
    with pytest.raises(ServiceError) as failure:
        await one(database)
    return failure.value


async def test_cancelling_a_statement_leaves_a_usable_connection(
    runs_database: Database, runs_database_url: str
) -> None:
    """Watchers that come and go by the hundred would otherwise have every connection replaced all the time."""

    async def backends() -> list[int]:
        query = "SELECT pid FROM pg_stat_activity WHERE application_name = 'test' ORDER BY pid"
        return [row.pid for row in await runs_database.fetch_all(query)]

    async def in_transaction(statement: str) -> None:
        async with runs_database.transaction() as connection:
            await connection.execute(statement)

    before = await backends()
    for execute in (runs_database.execute, in_transaction):
        task: asyncio.Task[Any] = asyncio.create_task(execute("SELECT pg_sleep(30)"))
        await eventually(lambda: is_asleep(runs_database_url))
        task.cancel()
        await asyncio.wait([task], timeout=5)
        assert task.cancelled()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await execute("SELECT pg_sleep(30)")
    assert await backends() == before


async def test_a_killed_connection_is_reported_as_unavailable_and_replaced(
    runs_database: Database, runs_database_url: str
) -> None:
    await asyncio.gather(*(one(runs_database) for _ in range(5)))
    assert kill_backends(runs_database_url, "test") >= 1
    error = await refusal(runs_database)
    assert error.reason is Reason.DATABASE_UNAVAILABLE
    assert error.retry_after is not None
    # One failure is enough for all that were killed.
    assert await asyncio.gather(*(one(runs_database) for _ in range(5))) == [1] * 5


async def test_a_lost_connection_in_one_pool_makes_the_other_pools_discard_theirs(
    runs_database: Database, runs_database_url: str
) -> None:
    other = Database(runs_database_url, pool_size=5, application_name="test", beside=runs_database)
    try:
        for database in (runs_database, other):
            await asyncio.gather(*(one(database) for _ in range(5)))
        assert kill_backends(runs_database_url, "test") >= 2
        await refusal(runs_database)
        assert await asyncio.gather(*(one(other) for _ in range(5))) == [1] * 5
    finally:
        await other.close()


async def test_a_connection_killed_within_a_transaction_leaves_nothing(
    runs_database: Database, runs_database_url: str
) -> None:
    async with runs_database.transaction() as connection:
        await connection.execute("CREATE TABLE counted (n int)")

    async def interrupted() -> None:
        async with runs_database.transaction() as connection:
            await connection.execute("INSERT INTO counted VALUES (1)")
            kill_backends(runs_database_url, "test")
            await connection.execute("INSERT INTO counted VALUES (2)")

    with pytest.raises(ServiceError):
        await interrupted()
    assert (await runs_database.fetch_one("SELECT count(*) FROM counted"))[0] == 0


async def test_a_server_that_is_away_is_reported_at_once_and_used_again_when_it_is_back(
    tmp_path: Path, prepared: Prepared
) -> None:
    server = prepared.postgres(tmp_path)
    with server:
        database = Database(server.url(), pool_size=3, application_name="test")
        assert await one(database) == 1
        sessions = [process.pid for process in psutil.Process(server.pid).children()]
        server.kill()
        wait_until_gone(sessions)  # each answers until it sees that the server is gone
        loop = asyncio.get_running_loop()
        started = loop.time()
        for _ in range(3):
            assert (await refusal(database)).reason is Reason.DATABASE_UNAVAILABLE
        assert loop.time() - started < 10
        server.start()
        server.wait_ready()
        assert await asyncio.gather(*(one(database) for _ in range(6))) == [1] * 6
        await database.close()


async def test_a_frozen_server_is_reported_within_the_bound_and_used_again_when_it_goes_on(
    tmp_path: Path, prepared: Prepared
) -> None:
    loop = asyncio.get_running_loop()
    with prepared.postgres(tmp_path) as server:
        database = Database(server.url(), pool_size=3, application_name="test", answer_timeout=1.0)
        assert await asyncio.gather(*(one(database) for _ in range(3))) == [1] * 3
        with frozen(server):
            started = loop.time()
            errors = await asyncio.gather(*(one(database) for _ in range(9)), return_exceptions=True)
            # The answer to a statement, then the connection that replaces the one that was given up.
            assert loop.time() - started < 3 * (1.0 + CONNECT_TIMEOUT)
            assert all(isinstance(e, ServiceError) and e.reason is Reason.DATABASE_UNAVAILABLE for e in errors)
        assert await asyncio.gather(*(one(database) for _ in range(6))) == [1] * 6
        await database.close()


async def test_a_primary_that_became_a_standby_is_unavailable_and_its_connections_are_closed(
    runs_database: Database, runs_database_url: str
) -> None:
    write = "UPDATE runs.runs SET status = status"

    async def in_transaction(statement: str) -> None:
        async with runs_database.transaction() as connection:
            await connection.execute(statement)

    def demote(demoted: bool) -> None:
        with psycopg.connect(runs_database_url, autocommit=True) as admin:
            admin.execute("SET default_transaction_read_only = off")
            name, value = sql.Identifier(admin.info.dbname), sql.Literal(demoted)
            admin.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = {}").format(name, value))

    demote(True)
    try:
        for execute in (runs_database.execute, in_transaction):
            with pytest.raises(ServiceError) as failure:
                await execute(write)
            assert failure.value.reason is Reason.DATABASE_UNAVAILABLE
    finally:
        demote(False)
    await in_transaction(write)  # over a new connection: the old one would stay read-only for ever


async def test_a_statement_longer_than_the_bound_is_given_up(postgres_server: Postgres) -> None:
    database = Database(postgres_server.url(), pool_size=1, application_name="test", answer_timeout=1.0)
    with pytest.raises(ServiceError) as failure:
        async with database.transaction() as connection:
            await connection.execute("SELECT pg_sleep(20)")
    assert failure.value.reason is Reason.DATABASE_UNAVAILABLE
    assert await one(database) == 1
    await database.close()


async def test_more_callers_than_connections_take_turns(runs_database: Database) -> None:
    assert await asyncio.gather(*(one(runs_database) for _ in range(100))) == [1] * 100


async def test_a_cancelled_caller_gives_its_connection_back(runs_database: Database, runs_database_url: str) -> None:
    async def sleep() -> None:
        await runs_database.execute("SELECT pg_sleep(60)")

    tasks = [asyncio.create_task(sleep()) for _ in range(5)]  # all there are

    async def asleep() -> bool:
        with psycopg.connect(runs_database_url) as connection:
            query = """SELECT FROM pg_stat_activity
                WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active' AND datname = current_database()"""
            return connection.execute(query).rowcount == 5

    await eventually(asleep)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    async with asyncio.timeout(20):
        assert await asyncio.gather(*(one(runs_database) for _ in range(5))) == [1] * 5


async def test_what_customers_sent_is_in_no_error_message(runs_database: Database) -> None:
    with pytest.raises(Exception, match="invalid input syntax") as failure:
        await runs_database.execute("SELECT CAST(%(a)s AS int), CAST(%(b)s AS text)", {"a": "x", "b": "of a customer"})
    assert "of a customer" not in str(failure.value)
