"""The product's two services, each replica a process of its own."""

import importlib.util
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from devstack.datadir import DataDir
from devstack.errors import StackError
from devstack.ports import HOST
from devstack.process import Child, Process, Spawn, poll, spawn

MIGRATE_TIMEOUT = 60.0  # seconds
HEALTH_TIMEOUT = 1.0  # seconds
Kind = Literal["runs", "executor"]

# What a service gets of our own environment: the system's, and the settings that are the caller's to choose. The
# rest (databases, addresses, secrets) is the stack's.
INHERITED = {
    *("PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "NO_COLOR"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"),
    *("ENABLE_QUEUE_PROCESSORS", "DEFAULT_PLAN"),
}
INHERITED_PREFIXES = ("AI_", "OPENAI_", "LOG_", "RUNS_", "EXECUTOR_", "GATEWAY_", "OTEL_", "TRACE_")
# The AI provider's settings, its key among them: only for the executor that serves.
AI_PREFIXES = ("AI_", "OPENAI_")


def inherited_environment() -> dict[str, str]:
    """Return what services get of this process's environment."""
    return {
        name: value for name, value in os.environ.items() if name in INHERITED or name.startswith(INHERITED_PREFIXES)
    }


def without_ai(env: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without the settings of the AI provider."""
    return {name: value for name, value in env.items() if not name.startswith(AI_PREFIXES)}


def writer(env: Mapping[str, str]) -> str:
    """Return who writes suggestions for an executor with this environment; it decides in the same way."""
    chosen = env.get("AI_PROVIDER") or ("openai" if env.get("OPENAI_API_KEY", "").strip() else "offline")
    if chosen == "offline":
        return "the offline template writer; set OPENAI_API_KEY to have a model write them"
    model, server = env.get("AI_MODEL"), env.get("OPENAI_BASE_URL")
    return "OpenAI" + (f"'s model {model}" if model else "") + (f" at {urlsplit(server).hostname}" if server else "")


class Service(Process):
    """One replica of runs_service or executor_service, on a loopback `port`, with the environment `env`.

    When we are killed it is killed too: the services are made to survive that, so nothing need be waited for.
    """

    def __init__(
        self,
        kind: Kind,
        *,
        port: int,
        env: Mapping[str, str],
        data: DataDir,
        replica: int = 1,
        keep_open: Iterable[int],
        spawn: Spawn = spawn,
    ) -> None:
        name = f"{kind}-service" if replica == 1 else f"{kind}-service-{replica}"
        super().__init__(name, data.log(name), keep_open=keep_open, spawn=spawn)
        self.kind = kind
        self.port = port
        self.env = {**(env if kind == "executor" else without_ai(env)), f"{kind.upper()}_LISTEN": self.target}

    @property
    def target(self) -> str:
        """The address clients connect to."""
        return f"{HOST}:{self.port}"

    def command(self) -> list[str | Path]:
        """Return the command that serves."""
        return [sys.executable, "-m", f"{self.kind}_service"]

    def environment(self) -> Mapping[str, str]:
        """Return the settings."""
        return self.env

    def is_migrated(self, database_url: str) -> bool:
        """Return whether its schema is up to date, in much less time than its `migrate` needs for that."""
        from servicekit.postgres.revisions import is_current

        package = importlib.util.find_spec(f"{self.kind}_service")
        assert package is not None
        assert package.submodule_search_locations
        return is_current(database_url, Path(package.submodule_search_locations[0], "migrations"), self.kind)

    def is_ready(self) -> bool:
        """Ask its health check."""
        from servicekit.health_probe import is_serving

        return is_serving(self.target, HEALTH_TIMEOUT)


def migrate(services: Iterable[Service]) -> None:
    """Bring the schemas of `services` up to date, all at the same time. Raises StackError naming who could not."""
    running: dict[Service, Child] = {}
    try:
        for service in services:
            running[service] = spawn([*service.command(), "migrate"], env=without_ai(service.env), log=service.log)
        poll(
            lambda: all(process.poll() is not None for process in running.values()),
            MIGRATE_TIMEOUT,
            lambda: f"migrations did not end within {MIGRATE_TIMEOUT:.0f} s",
        )
    finally:
        for process in running.values():
            process.kill()
            process.wait()
    for service, process in running.items():
        if process.returncode != 0:
            raise StackError(
                f"the migration of {service.name} failed with exit code {process.returncode}; {service.log_end}"
            )
