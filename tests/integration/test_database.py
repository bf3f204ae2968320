"""Database, Listener, Notifier and migrations over a real PostgreSQL that is not always there."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from alembic import command
from psycopg import sql

from devstack.postgres import Postgres
from executor_service import app as executor_app
from executor_service.models import metadata as executor_metadata
from runs_service import app as runs_app
from runs_service.models import metadata as runs_metadata
from servicekit.background.tasks import running
from servicekit.errors import Reason, ServiceError
from servicekit.postgres import migrations, revisions
from servicekit.postgres.database import Database
from servicekit.postgres.notifications import Listener, Notifier
from servicekit.postgres.pool import CONNECT_TIMEOUT
from tests.support.forking import Forks
from tests.support.prepared import Prepared
from tests.support.waiting import eventually


async def one(database: Database) -> int:
    return int((await database.fetch_one("SELECT 1"))[0])


def kill_backends(url: str, like: str) -> int:
    """Terminate the other connections with such an application_name; return how many there were."""
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE application_name LIKE %s AND datname = current_database() AND pid <> pg_backend_pid()",
            [like],
        ).rowcount


def is_asleep(url: str) -> bool:
    with psycopg.connect(url) as connection:
        query = "SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
        return connection.execute(query).rowcount > 0


@contextmanager
def frozen(server: Postgres) -> Iterator[None]:
    """Let a server and all its backends stand still within the block."""
    assert server.pid is not None
    pids = [server.pid, *(child.pid for child in psutil.Process(server.pid).children())]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


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
        server.kill()
        loop = asyncio.get_running_loop()
        started = loop.time()
        for _ in range(3):
            assert (await refusal(database)).reason is Reason.DATABASE_UNAVAILABLE
        assert loop.time() - started < 3
        server.start()
        server.wait_ready()
        assert await asyncio.gather(*(one(database) for _ in range(6))) == [1] * 6
        await database.close()


async def test_a_frozen_server_is_reported_within_the_bound_and_used_again_when_it_goes_on(
    tmp_path: Path, prepared: Prepared
) -> None:
    loop = asyncio.get_running_loop()
    with prepared.postgres(tmp_path) as server:
        database = Database(server.url(), pool_size=3, application_name="test", answer_timeout=0.5)
        assert await asyncio.gather(*(one(database) for _ in range(3))) == [1] * 3
        with frozen(server):
            started = loop.time()
            errors = await asyncio.gather(*(one(database) for _ in range(9)), return_exceptions=True)
            # The answer to a statement, then the connection that replaces the one that was given up.
            assert loop.time() - started < 0.5 + CONNECT_TIMEOUT + 2
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
    database = Database(postgres_server.url(), pool_size=1, application_name="test", answer_timeout=0.2)
    with pytest.raises(ServiceError) as failure:
        async with database.transaction() as connection:
            await connection.execute("SELECT pg_sleep(5)")
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
            query = "SELECT FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active'"
            return connection.execute(query).rowcount == 5

    await eventually(asleep)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    async with asyncio.timeout(3):
        assert await asyncio.gather(*(one(runs_database) for _ in range(5))) == [1] * 5


async def test_what_customers_sent_is_in_no_error_message(runs_database: Database) -> None:
    with pytest.raises(Exception, match="invalid input syntax") as failure:
        await runs_database.execute("SELECT CAST(%(a)s AS int), CAST(%(b)s AS text)", {"a": "x", "b": "of a customer"})
    assert "of a customer" not in str(failure.value)


# Hints


class Recorder:
    """A listener and the notifications that reached it."""

    def __init__(self, url: str, channel: str = "changes", **options: float) -> None:
        self.payloads: list[str] = []
        self.gaps = 0
        self.listener = Listener(url, channel, on_notification=self.payloads.append, on_gap=self._on_gap, **options)

    def _on_gap(self) -> None:
        self.gaps += 1


@pytest.fixture
async def recorder(runs_database_url: str) -> AsyncIterator[Recorder]:
    recorder = Recorder(runs_database_url)
    async with running(recorder.listener):
        await eventually(lambda: recorder.gaps == 1)
        yield recorder


async def test_a_notification_arrives_on_its_channel_only(
    recorder: Recorder, runs_database: Database, runs_database_url: str
) -> None:
    stranger = Recorder(runs_database_url, "other")
    notifier = Notifier(runs_database, "changes")
    async with running(stranger.listener, notifier):
        await eventually(lambda: stranger.gaps)
        notifier.notify(["a", "b", "a"])
        await eventually(lambda: " ".join(recorder.payloads).split() == ["a", "b"])
        many = [f"{n:036}" for n in range(1000)]
        notifier.notify(many)
        await eventually(lambda: " ".join(recorder.payloads).split() == ["a", "b", *many])
    assert stranger.payloads == []
    assert recorder.gaps == 1


async def test_a_listener_whose_connection_is_killed_listens_again_and_reports_a_gap(
    recorder: Recorder, runs_database: Database, runs_database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "servicekit")
    for time in range(1, 4):
        assert kill_backends(runs_database_url, "listen-%") == 1
        await eventually(lambda expected=time: recorder.gaps == expected + 1)
    notifier = Notifier(runs_database, "changes")
    async with running(notifier):
        notifier.notify(["again"])
        await eventually(lambda: recorder.payloads == ["again"])
    lost = [record for record in caplog.records if record.message.startswith("Listener failed")]
    assert len(lost) == 3
    assert all(record.exc_info is None for record in lost)  # a line each, no trace


async def test_a_listener_leaves_a_server_that_stands_still(
    tmp_path: Path, prepared: Prepared, caplog: pytest.LogCaptureFixture
) -> None:
    """It may never go on: behind the same address another one may have taken its place."""
    with prepared.postgres(tmp_path) as server:
        recorder = Recorder(server.url(), answer_timeout=0.3, idle_check=0.05)
        async with running(recorder.listener):
            await eventually(lambda: recorder.gaps == 1)
            with frozen(server):
                await eventually(lambda: any("Listener failed" in record.message for record in caplog.records))
            await eventually(lambda: recorder.gaps == 2)


async def test_a_hint_that_comes_between_two_waits_is_not_lost(runs_database: Database, runs_database_url: str) -> None:
    recorder = Recorder(runs_database_url, idle_check=0.005)
    notifier = Notifier(runs_database, "changes")
    words = [str(n) for n in range(200)]
    async with running(recorder.listener, notifier):
        await eventually(lambda: recorder.gaps)
        for word in words:
            notifier.notify([word])
            await asyncio.sleep(0.001)
        await eventually(lambda: " ".join(recorder.payloads).split() == words)


async def test_a_notifier_goes_on_after_its_database_failed(
    recorder: Recorder, runs_database: Database, runs_database_url: str
) -> None:
    notifier = Notifier(runs_database, "changes")
    async with running(notifier):
        notifier.notify(["first"])
        await eventually(lambda: recorder.payloads == ["first"])
        kill_backends(runs_database_url, "test")
        notifier.notify(["lost"])

        def notified_again() -> bool:
            notifier.notify(["later"])
            return "later" in " ".join(recorder.payloads)

        await eventually(notified_again)


# Migrations

SERVICES = pytest.mark.parametrize(
    ("scripts", "schema"),
    [(runs_app.MIGRATIONS, runs_metadata.schema), (executor_app.MIGRATIONS, executor_metadata.schema)],
    ids=["runs", "executor"],
)


def tables(url: str, schema: str) -> set[str]:
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", [schema]).fetchall()
        return {name for (name,) in rows}


@SERVICES
def test_the_migrations_make_what_the_models_say(scripts: Path, schema: str, empty_database_url: str) -> None:
    migrations.upgrade(empty_database_url, scripts)
    command.check(migrations.config(empty_database_url, scripts))  # raises when they differ
    expected = {
        table.name for m in (runs_metadata, executor_metadata) if m.schema == schema for table in m.sorted_tables
    }
    assert tables(empty_database_url, schema) == {*expected, "alembic_version"}


@SERVICES
def test_down_and_up_again(scripts: Path, schema: str, empty_database_url: str) -> None:
    config = migrations.config(empty_database_url, scripts)
    migrations.upgrade(empty_database_url, scripts)
    before = tables(empty_database_url, schema)
    command.downgrade(config, "base")
    assert tables(empty_database_url, schema) == {"alembic_version"}
    migrations.upgrade(empty_database_url, scripts)
    migrations.upgrade(empty_database_url, scripts)  # nothing to do
    assert tables(empty_database_url, schema) == before


def test_both_services_migrate_one_database_side_by_side(empty_database_url: str) -> None:
    for scripts in (runs_app.MIGRATIONS, executor_app.MIGRATIONS):
        migrations.upgrade(empty_database_url, scripts)
    for scripts in (runs_app.MIGRATIONS, executor_app.MIGRATIONS):
        command.check(migrations.config(empty_database_url, scripts))


def test_many_processes_migrate_at_once(empty_database_url: str, runs_forks: Forks, tmp_path: Path) -> None:
    env = {"RUNS_DATABASE_URL": empty_database_url}
    migrators = [runs_forks.run(tmp_path / f"log-{number}", "migrate", env=env) for number in range(4)]
    assert [migrator.wait(60) for migrator in migrators] == [0] * 4
    assert "runs" in tables(empty_database_url, "runs")


def test_a_database_that_cannot_be_reached_fails_soon(postgres_server: Postgres) -> None:
    with pytest.raises(Exception, match="refused"):
        migrations.upgrade("postgresql://u:p@127.0.0.1:1/d", runs_app.MIGRATIONS)


@pytest.mark.parametrize("service", ["runs", "executor"])
def test_migrate_says_in_one_line_that_there_is_no_database(
    service: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    variable = f"{service.upper()}_DATABASE_URL"
    settings = {
        variable: "postgresql://u:hidden-password@127.0.0.1:1/d",
        "AUTH_JWT_SECRET": "x" * 32,
        "PATH": os.environ["PATH"],
    }
    forks: Forks = request.getfixturevalue(f"{service}_forks")
    log = tmp_path / "log"
    assert forks.run(log, "migrate", env=settings).wait(60) == 1
    (line,) = log.read_text().splitlines()
    assert line.startswith(f"{variable}: ")
    assert "refused" in line
    assert "hidden-password" not in line


@SERVICES
def test_whether_a_schema_is_current_is_found_without_alembic(
    scripts: Path, schema: str, empty_database_url: str
) -> None:
    from alembic.script import ScriptDirectory

    assert revisions.head(scripts) == ScriptDirectory.from_config(migrations.config("", scripts)).get_current_head()
    assert not revisions.is_current(empty_database_url, scripts, schema)
    migrations.upgrade(empty_database_url, scripts)
    assert revisions.is_current(empty_database_url, scripts, schema)
    with psycopg.connect(empty_database_url) as connection:
        connection.execute(f"UPDATE {schema}.alembic_version SET version_num = '0001'")
    assert not revisions.is_current(empty_database_url, scripts, schema)
