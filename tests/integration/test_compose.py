"""Every command of docker-compose.yml, with the environment it has there, outside a container."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
import redis

from devstack import postgres as embedded_postgres
from devstack import valkey as embedded_valkey
from devstack.ports import HOST, free_ports
from devstack.postgres import Postgres
from devstack.process import Process
from servicekit.health_probe import is_serving
from tests.support.waiting import eventually

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
        self.text = self.text.replace("$$", "$")

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

    def services(self) -> list[str]:
        """Return the names of all services."""
        return re.findall(r"^  (\w+):$", self.text.split("\nservices:\n")[1].split("\nvolumes:\n")[0], re.MULTILINE)

    def keys(self, service: str) -> dict[str, str]:
        """Return what a service says in one line, those of the anchors that it merges included."""
        return self._keys_of(self._block(service), indent=4)

    def _keys_of(self, block: str, *, indent: int) -> dict[str, str]:
        found = dict(re.findall(rf"^ {{{indent}}}(\S+): (.+)$", block, re.MULTILINE))
        if anchor := found.pop("<<", None):
            merged = self.text.split(f": &{anchor.removeprefix('*')}\n")[1].split("\n\n")[0]
            found = self._keys_of(merged, indent=2) | found
        return found

    def _block(self, service: str) -> str:
        block = self.text.split("\nservices:\n")[1].split(f"  {service}:\n", 1)[1]
        return re.split(r"^(?:  )?\w+:\n", block, maxsplit=1, flags=re.MULTILINE)[0]

    def _list(self, service: str, key: str) -> list[str]:
        found = re.search(rf"^ +{key}: (\[.*\])$", self._block(service), re.MULTILINE)
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
        target = self._health[-1]  # of a probe, which takes half a second to start; this takes none
        if re.fullmatch(r"[\w.]+:\d+", target) and not is_serving(target):
            return False
        return subprocess.run(self._health, env=self._env, check=False).returncode == 0


def test_no_container_can_do_more_than_it_must() -> None:
    compose = ComposeFile({})
    assert len(compose.services()) == 8
    for service in compose.services():
        keys = compose.keys(service)
        assert keys["read_only"] == "true", service
        assert json.loads(keys["cap_drop"].replace("ALL", '"ALL"')) == ["ALL"], service
        assert json.loads(keys["security_opt"]) == ["no-new-privileges:true"], service
        assert int(keys["pids_limit"]) <= 1_000, service
        assert keys["mem_limit"] == "1g", service
        assert not {"privileged", "cap_add", "pid", "ipc", "network_mode", "devices"} & keys.keys(), service
        is_ours = keys["image"] == "playbook-runs"
        assert is_ours or keys["user"] in ("postgres", "valkey"), f"{service} starts as root"
    assert re.search(r"^USER [1-9]\d*$", (COMPOSE.parent / "Dockerfile").read_text(), re.MULTILINE)


def test_the_image_is_built_of_what_docker_gets_and_starts_without_a_shell() -> None:
    lines = (COMPOSE.parent / "Dockerfile").read_text().splitlines()
    copied = [line.split()[1:-1] for line in lines if line.startswith("COPY ") and "--from" not in line]
    let_through = (COMPOSE.parent / ".dockerignore").read_text().splitlines()
    for name in (name for names in copied for name in names):
        assert f"!{name}" in let_through, f".dockerignore keeps {name} from the Dockerfile"
        assert (COMPOSE.parent / name).exists()
    last = "\n".join(lines).rpartition("\nFROM ")[2]
    # As lists: a shell in between would be process 1, and pass no signal on.
    assert re.findall(r"^(?:CMD|ENTRYPOINT) (.+)$", last, re.MULTILINE) == ['["runs-service"]']
    for service in ComposeFile({}).services():
        command = ComposeFile({}).keys(service).get("command", "[]")
        assert command.startswith("[")
        assert service == "valkey" or '"sh"' not in command


@pytest.mark.skipif(not shutil.which("unshare") or os.geteuid() != 0, reason="a namespace of processes needs root")
@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_service_is_a_good_process_1(workers: str, runs_database_url: str, tmp_path: Path) -> None:
    """As in a container without an init: signals have no default effect there, and orphans are its to wait for. The
    root file system is read-only, too."""
    (port,) = free_ports(1)
    env = {
        "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
        "RUNS_DATABASE_URL": runs_database_url,
        "RUNS_LISTEN": f"{HOST}:{port}",
        "RUNS_WORKERS": workers,
        "AUTH_JWT_SECRET": SECRETS["AUTH_JWT_SECRET"],
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    inside = f"mount --make-rprivate / && mount -o remount,bind,ro / && exec {sys.executable} -m runs_service"
    command = ["unshare", "--fork", "--pid", "--mount", "--mount-proc", "--kill-child", "sh", "-c", inside]
    with (tmp_path / "log").open("wb") as log:
        running = await asyncio.create_subprocess_exec(*command, env=env, cwd="/", stdout=log, stderr=log)
    try:
        await eventually(lambda: is_serving(f"{HOST}:{port}"))
        (first,) = psutil.Process(running.pid).children()
        assert number_inside(first) == 1
        assert len(first.children()) == (0 if workers == "1" else int(workers))
        first.terminate()
        assert await asyncio.wait_for(running.wait(), 60) == 0
    finally:
        if running.returncode is None:
            running.kill()
            await running.wait()


def number_inside(process: psutil.Process) -> int:
    """Return the process's number in its own namespace."""
    return int(Path(f"/proc/{process.pid}/status").read_text().split("NSpid:")[1].splitlines()[0].split()[-1])


def test_ports_are_published_on_this_machine_only() -> None:
    compose = ComposeFile({})
    published = {service: keys["ports"] for service in compose.services() if "ports" in (keys := compose.keys(service))}
    assert set(published) == {"runs_service", "executor_service", "gateway"}
    for ports in published.values():
        assert re.match(rf'\["{HOST}:[\d-]+:\d+"\]', ports)
    assert compose.text.count("ports:") == len(published)


def test_no_command_has_a_secret() -> None:
    compose = ComposeFile({})
    for service in compose.services():
        keys = compose.keys(service)
        for said in (keys.get("command", ""), keys.get("entrypoint", ""), keys.get("test", "")):
            assert not any(secret in said for secret in SECRETS.values()), service
    assert all(secret in compose.text for secret in SECRETS.values())


@pytest.mark.skipif(not shutil.which("openssl"), reason="the recipe needs openssl")
@pytest.mark.parametrize(("file", "margin"), [("docker-compose.yml", "#   "), ("README.md", "    ")])
def test_the_recipe_for_secrets_makes_a_file_for_its_owner_only(file: str, margin: str, tmp_path: Path) -> None:
    lines = (COMPOSE.parent / file).read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"{margin}(umask"))
    end = next(number for number, line in enumerate(lines[start:], start) if line.endswith("> .env)"))
    recipe = "\n".join(line.removeprefix(margin) for line in lines[start : end + 1])
    subprocess.run(["sh", "-c", f"umask 022; {recipe}"], cwd=tmp_path, check=True)
    made = dict(line.split("=") for line in (tmp_path / ".env").read_text().splitlines())
    assert set(made) == set(SECRETS)
    assert all(len(secret) == 64 for secret in made.values())
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600


def test_only_the_executor_that_serves_gets_the_ai_key() -> None:
    text = COMPOSE.read_text()
    blocks = dict(re.findall(r"^(?:  )?([\w-]+):(?: &[\w-]+)?\n((?:(?:    .*)?\n|  [A-Z<].*\n)+)", text, re.MULTILINE))
    named = {name for name, block in blocks.items() if re.search(r"\bOPENAI_|\bAI_", block)}
    assert named == {"x-ai"}
    assert {name for name, block in blocks.items() if re.search(r"\*ai\b", block)} == {"executor_service"}
    assert {"migrate_executor", "runs_service", "provision", "x-executor-service"} <= blocks.keys()


def test_every_command_works_and_the_services_get_healthy(tmp_path: Path) -> None:
    postgres_port, valkey_port, runs_port, http_port, *executor_ports = map(str, free_ports(6))
    places = {
        "@postgres:5432": f"@{HOST}:{postgres_port}",
        "@valkey:6379": f"@{HOST}:{valkey_port}",
        "executor_service:50052": f"{HOST}:{executor_ports[0]}",
        "runs_service:50051": f"{HOST}:{runs_port}",
        "8080": http_port,
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
        shell, *options, script = compose.command("valkey")
        found = shutil.which(shell)
        assert found
        assert "valkey-server - " in script
        here_and_now = f"{embedded_valkey.binary()} - --port {valkey_port} --dir {tmp_path} "
        valkey = running.enter_context(
            Container(
                "valkey",
                [found, *options, script.replace("valkey-server - ", here_and_now)],
                # No wheel has valkey-cli.
                [sys.executable, "-c", f"import socket; socket.create_connection(('{HOST}', {valkey_port}))"],
                env,
                tmp_path / "valkey.log",
            )
        )
        assert SECRETS["VALKEY_PASSWORD"].encode() not in Path(f"/proc/{valkey.pid}/cmdline").read_bytes()
        with redis.Redis(HOST, int(valkey_port), password=SECRETS["VALKEY_PASSWORD"]) as client:
            assert client.config_get("append*")["appendonly"] == "yes"
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
        gateway = running.enter_context(
            Container(
                "gateway",
                here(compose.command("gateway")),
                here(compose.health("gateway")),
                {name: value for name, value in env.items() if value not in SECRETS.values() and "URL" not in name},
                tmp_path / "gateway.log",
            )
        )
        environment = Path(f"/proc/{gateway.pid}/environ").read_text()
        assert not any(secret in environment for secret in SECRETS.values())
    for service in ("runs", "gateway", *(f"executor-{port}" for port in executor_ports)):
        log = (tmp_path / f"{service}.log").read_text()
        assert '"level": "error"' not in log
        assert "can be reached from other machines, and without TLS" in log
