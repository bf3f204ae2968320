"""Through a pooler: what a connection cannot ask for, the role has; where LISTEN is deaf, the log says so."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from devstack.ports import HOST, free_ports
from runs_service import app
from servicekit.background.tasks import running
from servicekit.postgres.database import Database
from servicekit.postgres.notifications import Listener, Notifier
from servicekit.postgres.schema import Schema
from servicekit.postgres.server_settings import ACTUAL, SETTINGS, differences, role_statements
from tests.support.pooler import Pooler
from tests.support.waiting import eventually

PGBOUNCER = os.environ.get("TEST_PGBOUNCER") or shutil.which(
    "pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin:/usr/local/bin"
)


def release() -> tuple[int, ...]:
    """Return the release of the pgbouncer that is here; () for none."""
    if PGBOUNCER is None:
        return ()
    said = subprocess.run([PGBOUNCER, "--version"], capture_output=True, text=True, check=True).stdout
    return tuple(int(part) for part in said.split()[1].split("."))


@dataclass
class Parts:
    user: str
    password: str
    port: int
    dbname: str


def parts(url: str) -> Parts:
    with psycopg.connect(url) as connection:
        info = connection.info
        return Parts(info.user, info.password, info.port, info.dbname)


def through(url: str, port: int) -> str:
    head, _, name = url.rpartition("/")
    return f"{head.rpartition(':')[0]}:{port}/{name}"


@asynccontextmanager
async def database_at(url: str) -> AsyncIterator[Database]:
    database = Database(url, pool_size=2, application_name="runs-service")
    yield database
    await database.close()


def give_settings(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        names = connection.info.user, connection.info.dbname
        for statement in role_statements(*(sql.Identifier(name).as_string() for name in names)):
            connection.execute(statement.encode())


def take_settings(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("ALTER ROLE {} IN DATABASE {} RESET ALL").format(
                sql.Identifier(connection.info.user), sql.Identifier(connection.info.dbname)
            )
        )


async def missing(database: Database) -> list[str]:
    rows = await database.fetch_all(ACTUAL, {"names": list(SETTINGS)})
    return differences({row[0]: row[1] for row in rows})


async def test_without_a_pooler_a_connection_has_the_settings_and_the_options_of_its_url(
    runs_database_url: str,
) -> None:
    async with database_at(f"{runs_database_url}?options=-c%20work_mem%3D7MB") as database:
        assert await missing(database) == []
        assert (await database.fetch_one("SHOW work_mem"))[0] == "7MB"


async def test_a_pooler_that_refuses_options_is_used_without_and_the_log_says_what_is_missing(
    runs_database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Pooler(HOST, parts(runs_database_url).port) as pooler:
        url = through(runs_database_url, pooler.port)
        async with database_at(url) as database:
            schema = Schema(database, "runs", app.MIGRATIONS, command="runs-service")
            assert await schema.problem() is None
            assert await schema.problem() is None
            assert pooler.refused == 1
        (line,) = [one for one in caplog.messages if "do not have" in one]
        assert all(name in line for name in SETTINGS if name != "TimeZone")
        assert line.count("ALTER ROLE") == len(SETTINGS) - 1
        assert "SET TimeZone" not in line  # it is not missing
        give_settings(runs_database_url)
        try:
            caplog.clear()
            async with database_at(url) as database:
                assert await Schema(database, "runs", app.MIGRATIONS, command="runs-service").problem() is None
                assert await missing(database) == []
            assert not [one for one in caplog.messages if "do not have" in one]
        finally:
            take_settings(runs_database_url)


@pytest.mark.parametrize("by_session", [True, False])
async def test_a_listener_that_a_pooler_keeps_deaf_says_so(
    by_session: bool, runs_database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    listening = asyncio.Event()
    arrived: list[str] = []
    async with (
        Pooler(HOST, parts(runs_database_url).port, by_session=by_session) as pooler,
        database_at(runs_database_url) as database,
    ):
        listener = Listener(
            through(runs_database_url, pooler.port),
            "changes",
            on_notification=arrived.append,
            on_gap=listening.set,
        )
        notifier = Notifier(database, "changes")
        async with running(listener, notifier):
            await asyncio.wait_for(listening.wait(), 10)
            is_said = any("RUNS_LISTEN_DATABASE_URL" in one for one in caplog.messages)
            assert is_said is not by_session
            if by_session:
                notifier.notify(["word"])
                await eventually(lambda: arrived == ["word"])


async def test_a_password_with_a_blank_listens_and_is_in_no_line(
    runs_database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    info = parts(runs_database_url)
    secret = "hidden pass+word%@/"
    with psycopg.connect(runs_database_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE ROLE spaced LOGIN SUPERUSER PASSWORD {}").format(sql.Literal(secret)))
    try:
        listening = asyncio.Event()
        for written, works in (
            ("hidden%20pass%2Bword%25%40%2F", True),
            ("hidden pass%2Bword%25%40%2F", True),
            ("hidden x", False),
        ):
            url = f"postgresql://spaced:{written}@{HOST}:{info.port}/{info.dbname}"
            listening.clear()
            listener = Listener(url, "changes", on_notification=lambda _: None, on_gap=listening.set)
            async with running(listener):
                if works:
                    await asyncio.wait_for(listening.wait(), 10)
                else:
                    await eventually(lambda: "password authentication failed" in caplog.text)
        assert "hidden" not in caplog.text
    finally:
        with psycopg.connect(runs_database_url, autocommit=True) as connection:
            connection.execute("DROP ROLE spaced")


@pytest.mark.skipif(
    release() < (1, 21), reason="there is no pgbouncer 1.21 or newer here; TEST_PGBOUNCER names one to run this"
)
async def test_the_documented_configuration_of_pgbouncer_works(runs_database_url: str, tmp_path: Path) -> None:
    assert PGBOUNCER
    info = parts(runs_database_url)
    (port,) = free_ports(1)
    at = f"host={HOST} port={info.port} dbname={info.dbname} user={info.user} password={info.password}"
    (tmp_path / "users").write_text(f'"{info.user}" "{info.password}"\n')
    (tmp_path / "pgbouncer.ini").write_text(
        f"[databases]\n{info.dbname} = {at}\n{info.dbname}_listen = {at} pool_mode=session pool_size=4\n"
        f"[pgbouncer]\nlisten_addr = {HOST}\nlisten_port = {port}\nauth_type = plain\nauth_file = {tmp_path}/users\n"
        "pool_mode = transaction\nmax_prepared_statements = 200\nunix_socket_dir =\n"
        + ("user = nobody\n" if os.geteuid() == 0 else "")
    )
    tmp_path.chmod(0o755)  # noqa: ASYNC240
    give_settings(runs_database_url)
    process = subprocess.Popen([PGBOUNCER, str(tmp_path / "pgbouncer.ini")])  # noqa: ASYNC220
    try:
        url = through(runs_database_url, port)
        async with database_at(url) as database:

            async def answers() -> bool:
                return await Schema(database, "runs", app.MIGRATIONS, command="runs-service").problem() is None

            await eventually(answers)
            assert await missing(database) == []
            received: list[str] = []
            listening = asyncio.Event()
            listener = Listener(f"{url}_listen", "changes", on_notification=received.append, on_gap=listening.set)
            async with running(listener):
                await asyncio.wait_for(listening.wait(), 10)
                await database.execute("SELECT pg_notify('changes', 'word')")
                await eventually(lambda: received == ["word"])
    finally:
        process.kill()
        process.wait()
        take_settings(runs_database_url)
