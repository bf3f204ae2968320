"""The HTTP gateway, a process of its own."""

import http.client
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from devstack.datadir import DataDir
from devstack.ports import HOST
from devstack.process import Process, Spawn, spawn

READY_SECONDS = 1.0
# What it gets of our environment: no secret of the stack, no key of the AI provider, no database.
PASSED = {
    *("PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "NO_COLOR"),
    *("MAX_CONNECTIONS", "MAX_RECEIVE_SECONDS"),
}
PASSED_PREFIXES = ("GATEWAY_", "LOG_", "OTEL_", "TRACE_")


class Gateway(Process):
    """The gateway at a loopback `port`, over services at `runs_target` and `executor_target`."""

    def __init__(
        self,
        *,
        port: int,
        runs_target: str,
        executor_target: str,
        env: Mapping[str, str],
        data: DataDir,
        keep_open: Iterable[int],
        spawn: Spawn = spawn,
    ) -> None:
        super().__init__("runs-gateway", data.log("runs-gateway"), keep_open=keep_open, spawn=spawn)
        self.port = port
        self._env = {
            **{name: value for name, value in env.items() if name in PASSED or name.startswith(PASSED_PREFIXES)},
            "GATEWAY_LISTEN": self.target,
            "RUNS_TARGET": runs_target,
            "EXECUTOR_TARGET": executor_target,
        }

    @property
    def target(self) -> str:
        """The address clients connect to, HOST:PORT."""
        return f"{HOST}:{self.port}"

    @property
    def url(self) -> str:
        """The address for browsers."""
        return f"http://{self.target}"

    def command(self) -> list[str | Path]:
        """Return the command that serves."""
        return [sys.executable, "-m", "gateway"]

    def environment(self) -> Mapping[str, str]:
        """Return the settings."""
        return self._env

    def is_ready(self) -> bool:
        """Ask it whether it lives: the services are asked themselves."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=READY_SECONDS)
        try:
            connection.request("GET", "/healthz")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
