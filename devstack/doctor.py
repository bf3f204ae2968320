"""`playbook-runs doctor`: whether all that a stack depends on is as it should be, and what to do where it is not."""

import contextlib
import http.client
import json
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Literal

import typer

from devstack.datadir import DataDir, default_data_dir
from devstack.errors import StackError
from devstack.running import environment_of
from devstack.services import inherited_environment
from servicekit.diagnosis import Finding, Status, failed, ok, skipped
from servicekit.telemetry.printable import printable

CHECK_TIMEOUT = 120.0  # seconds for all checks of a service; each has a bound of its own
GATEWAY_TIMEOUT = 5.0  # seconds
GATEWAY = "127.0.0.1:8080"
WORDS = {Status.OK: "ok", Status.FAILED: "FAILED", Status.SKIPPED: "-"}

Kind = Literal["runs", "executor"]


def doctor(
    *,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            "--data-dir",
            metavar="D",
            help="The folder of a stack of `playbook-runs up`.  [default: what the environment names, else the one in "
            f"{default_data_dir()}]",
        ),
    ] = None,
    ai: Annotated[
        bool, typer.Option("--ai", help="Also ask the AI provider, by one request that costs a fraction of a cent.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object a line.")] = False,
) -> None:
    """Look at everything the services need: a line each, and what to do.

    It reads the environment variables that runs-service, executor-service
    and runs-gateway read, so run it where they run: databases, schemas,
    roles' settings, clocks, the broker (a message of its own goes there and
    back), the services and the gateway, tokens, the AI provider.

    It changes nothing. The exit code is 1 when something failed.

    Example: playbook-runs doctor --data-dir ./stack --ai
    """
    try:
        environment = _environment(data_dir)
    except StackError as error:
        typer.echo(f"error: {printable(str(error))}", err=True)
        raise typer.Exit(1) from None
    found = []
    for finding in findings(environment, with_ai=ai):
        found.append(finding)
        typer.echo(json.dumps(finding.as_dict()) if as_json else _line(finding))
    raise typer.Exit(int(any(finding.status is Status.FAILED for finding in found)))


def findings(environment: Mapping[str, str], *, with_ai: bool) -> Iterator[Finding]:
    """Yield what is found of the services and the gateway that `environment` describes."""
    with ThreadPoolExecutor() as pool:
        checks = [pool.submit(_service, kind, environment, with_ai) for kind in ("runs", "executor")]
        gateway = pool.submit(_gateway, environment)
        for check in checks:
            yield from check.result()
        yield gateway.result()


def _environment(data_dir: Path | None) -> Mapping[str, str]:
    """Return the environment of the services: ours, or that of a stack of `up`. Raises StackError."""
    if data_dir is None and any(_database(kind) in os.environ for kind in ("runs", "executor")):
        return os.environ
    return inherited_environment() | environment_of(DataDir(data_dir or default_data_dir()))


def _database(kind: str) -> str:
    return f"{kind.upper()}_DATABASE_URL"


def _service(kind: str, environment: Mapping[str, str], with_ai: bool) -> list[Finding]:
    """Have a service check itself: it knows what it needs."""
    if not environment.get(_database(kind)):
        return [skipped(f"{kind} service", f"{_database(kind)} is not set here")]
    command = [sys.executable, "-m", f"{kind}_service", "check", *(["--ai"] if with_ai else [])]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=CHECK_TIMEOUT, check=False
        )
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        if lines and done.returncode in (0, 1):
            return [Finding(**{**line, "status": Status(line["status"])}) for line in lines]
        why = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
    except subprocess.TimeoutExpired:
        why = f"its check did not end within {CHECK_TIMEOUT:.0f} s"
    except (ValueError, TypeError, KeyError):
        why = "its check is of another release"
    return [failed(f"{kind} settings", why[-1_000:], "correct what it names: docs/configuration.md has all variables")]


def _gateway(environment: Mapping[str, str]) -> Finding:
    """Ask the gateway whether it reaches both services."""
    check, named = "gateway", environment.get("GATEWAY_LISTEN")
    host, _, port = (named or GATEWAY).rpartition(":")
    host = "127.0.0.1" if host in ("0.0.0.0", "[::]") else host.strip("[]")  # noqa: S104
    try:
        with contextlib.closing(_connection(host, int(port), environment)) as connection:
            connection.request("GET", "/readyz")
            answer = connection.getresponse()
            said = json.loads(answer.read(10_000))
    except (OSError, http.client.HTTPException, ValueError) as error:
        if named is None and isinstance(error, ConnectionRefusedError):
            return skipped(check, f"GATEWAY_LISTEN is not set here, and nothing listens at {GATEWAY}")
        return failed(check, f"{host}:{port}: {error}", "start runs-gateway, or correct GATEWAY_LISTEN")
    if answer.status == http.client.OK:
        return ok(check, f"{host}:{port} serves, and reaches both services")
    detail = said.get("detail") or said.get("message") or f"HTTP {answer.status}"
    return failed(check, f"{host}:{port}: {detail}", "start that service, or correct RUNS_TARGET and EXECUTOR_TARGET")


def _connection(host: str, port: int, environment: Mapping[str, str]) -> http.client.HTTPConnection:
    certificate, key, clients, trusted = (
        environment.get(f"TLS_{name}_FILE") for name in ("CERT", "KEY", "CLIENT_CA", "CA")
    )
    if not certificate:
        return http.client.HTTPConnection(host, port, timeout=GATEWAY_TIMEOUT)
    context = ssl.create_default_context(cafile=trusted or clients or certificate)
    context.load_cert_chain(certificate, key)  # sent only when the gateway asks for it
    return http.client.HTTPSConnection(host, port, timeout=GATEWAY_TIMEOUT, context=context)


def _line(finding: Finding) -> str:
    line = f"{WORDS[finding.status]:6} {printable(finding.check)}: {printable(finding.message)}"
    return f"{line}\n       → {printable(finding.advice)}" if finding.advice else line
