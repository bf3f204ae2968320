"""PostgreSQL data that is ready before a test asks for it: made once a session, and copied for each server.

Initialising a cluster and migrating two schemas takes three seconds of a core, and copying the result a tenth of one,
as it is kept small.
"""

import fcntl
import subprocess
from pathlib import Path

import psycopg

import executor_service.app
import runs_service.app
from devstack.datadir import DataDir, Secrets
from devstack.ports import free_ports
from devstack.postgres import Postgres, binary
from devstack.process import spawn
from devstack.provision import DATABASE, provision
from servicekit.postgres import migrations

RUNS_TEMPLATE, EXECUTOR_TEMPLATE = "runs_template", "executor_template"


class Prepared:
    """A folder with a stack's secrets and PostgreSQL data, never run again, only copied.

    A stack's server has the product's database, provisioned and migrated as a stack does it. Another one, for tests of
    one service, has a template database with the tables of each service.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    def in_session(cls, session: Path) -> "Prepared":
        """Return what the session has; whichever of its processes comes first makes it, and the others wait."""
        folder = session / "prepared"
        with (session / "prepared.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                unfinished = session / "prepared.unfinished"
                _prepare(DataDir(unfinished))
                unfinished.rename(folder)
        return cls(folder)

    def stack_folder(self, folder: Path) -> Path:
        """Make `folder`, which may be there but is empty, one that a stack has run in before; return it."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._copy("secrets.json", folder / "secrets.json")
        self._copy("postgres", folder / "postgres")
        return folder

    def postgres(self, folder: Path) -> Postgres:
        """Return a server, to be entered, that has `folder` to itself."""
        self._copy("templates", folder / "data")
        return _server(folder / "data", DataDir(self._folder).secrets(), folder / "log")

    def _copy(self, name: str, to: Path) -> None:
        _copy(self._folder / name, to)


def _prepare(data: DataDir) -> None:
    data.occupy().release()  # the folder is made now, and no stack runs in it
    secrets = data.make_secrets()
    passwords = {"runs_service": secrets.runs_password, "executor_service": secrets.executor_password}
    services = (
        ("runs_service", runs_service.app.MIGRATIONS, RUNS_TEMPLATE),
        ("executor_service", executor_service.app.MIGRATIONS, EXECUTOR_TEMPLATE),
    )
    with _server(data.postgres, secrets, data.log("postgres")) as server:
        provision(server.url(), passwords)
        for service, folder, _ in services:
            migrations.upgrade(server.url(user=service, password=passwords[service], database=DATABASE), folder)
        with psycopg.connect(server.url(), autocommit=True) as connection:
            # A stack creates no other database; each is three hundred files to copy.
            connection.execute("UPDATE pg_database SET datistemplate = false")
            connection.execute("DROP DATABASE template0")
            connection.execute("DROP DATABASE template1")
    _shorten_log(server)
    templates = data.path / "templates"
    _copy(data.postgres, templates)
    with _server(templates, secrets, data.log("postgres")) as server:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {DATABASE}")
            for template in ("template1", RUNS_TEMPLATE, EXECUTOR_TEMPLATE):
                connection.execute(f"CREATE DATABASE {template} TEMPLATE postgres")
        for _, folder, template in services:
            migrations.upgrade(server.url(database=template), folder)
    _shorten_log(server)


def _shorten_log(server: Postgres) -> None:
    """Replace the log of a server that has stopped, 32 MB that say nothing, by one of a megabyte."""
    command = [binary("pg_resetwal"), "--wal-segsize=1", "-D", server.data]
    code = spawn(command, env=server.environment(), log=server.log, user=server.user).wait()
    assert code == 0, server.log_end


def _copy(name: Path, to: Path) -> None:
    # shutil.copytree would not keep the owner, and PostgreSQL does not run as root.
    subprocess.run(["cp", "-a", name, to], check=True)


def _server(data: Path, secrets: Secrets, log: Path) -> Postgres:
    return Postgres(data, port=free_ports(1)[0], password=secrets.postgres_password, log=log, durable=False)
