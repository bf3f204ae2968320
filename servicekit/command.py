"""The command lines of what serves: `NAME` serves, and `NAME migrate` brings a service's schema up to date."""

import argparse
import asyncio
import json
import logging
import signal
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import uvloop

from servicekit import prefork
from servicekit.background import tasks
from servicekit.config.settings import DatabaseSettings, ListenerSettings, ServiceSettings, is_loopback, load
from servicekit.diagnosis import Finding, Status
from servicekit.telemetry import logs

logger = logging.getLogger(__name__)

Migration = TypeVar("Migration", bound=DatabaseSettings)
Service = TypeVar("Service", bound=ServiceSettings)
Listener = TypeVar("Listener", bound=ListenerSettings)

# The variables of servicekit.config.settings, for the help of each command.
SHARED_VARIABLES = """\
  BROKER_QUEUE_PREFIX       prefix of the queues' names; the same in both services (playbook-runs)
  AUTH_MODE                 jwt, or disabled with a loopback listener (jwt)
  AUTH_JWT_SECRET           HS256 secret, 32 characters or more; the same in both services; several are
                            separated by commas: the first one signs, each verifies
  AUTH_JWT_PUBLIC_KEY_FILE  PEM or JWKS file: users' tokens are RS256 (2048 bits or more), ES256 or EdDSA
                            (Ed25519); it is read again when it changes
  AUTH_JWT_AUDIENCE         what tokens must have in `aud`; unset: anything
  AUTH_JWT_ISSUER           what tokens must have in `iss`; unset: anything
  AUTH_JWT_MAX_LIFETIME_SECONDS   tokens that are valid for longer are refused (2592000: 30 days)
  TLS_CERT_FILE, TLS_KEY_FILE, TLS_CLIENT_CA_FILE   TLS; with the last, mutual TLS
  MAX_RECEIVING_BYTES       memory of all requests that arrive or are not answered yet (67108864)
  MAX_RECEIVE_SECONDS       time in which a request must have arrived (10)
  MAX_METADATA_BYTES        size of a call's metadata (40960)
  MAX_STREAMS_PER_CONNECTION, MAX_CONNECTIONS, MAX_CALLS   calls in flight on a connection (1000), connections
                            (10000), calls in flight in a process (10000)
  MAX_CALLS_PER_CALLER, MAX_WATCHES, MAX_WATCHES_PER_CALLER   calls in flight of one caller (5000), streams of answers
                            in a process (8000), those of one caller (4000)
  MAX_CONNECTION_AGE_SECONDS, MAX_CONNECTION_GRACE_SECONDS   age at which a connection gets no new calls (3600), time
                            that those on it may go on (600)
  REFLECTION                false: gRPC reflection is off (true)
"""
# Those of everything that listens.
LISTENER_VARIABLES = """\
  METRICS_LISTEN            HOST:PORT for Prometheus; unset: off; of several processes each takes the next port
  LOG_FORMAT                json or console (json)
  LOG_LEVEL                 DEBUG, INFO, WARNING or ERROR (INFO); SIGUSR1 changes it to DEBUG, and back
  OTEL_EXPORTER_OTLP_ENDPOINT   an OpenTelemetry collector (http://HOST:4318) that gets traces; unset: there are none.
                            docs/configuration.md has the other OTEL_* variables
"""


def main(
    name: str,
    settings: type[Service],
    database_settings: type[Migration],
    *,
    description: str,
    variables: str,
    serve: Callable[[Service], Coroutine[Any, Any, None]],
    migrate: Callable[[Migration], str],
    check: Callable[[Service, bool], Coroutine[Any, Any, list[Finding]]],
) -> int:
    """Run the command `name` with the arguments of this process, and return the exit code.

    `serve` gets the `settings`. `migrate` gets the `database_settings`, for it needs nothing else, and returns what it
    did. `check` gets the settings, and whether to ask the AI provider, and returns what it found. `variables` is the
    help on the service's own environment variables, a line each.
    """
    parser = argparse.ArgumentParser(
        prog=name,
        description=f"{description}\n"
        f"  {name} migrate    bring the schema up to date: safe from many at once, needs the database URL only\n"
        f"  {name} check      look at all that it depends on, a JSON object a line; exit code 1 when something failed\n"
        f"  {name}            serve until SIGTERM or Ctrl-C\n",
        epilog=f"environment variables (default):\n{variables}{SHARED_VARIABLES}{LISTENER_VARIABLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", nargs="?", choices=["serve", "migrate", "check"], default="serve")
    parser.add_argument("--ai", action="store_true", help="check: also ask the AI provider, by one request")
    given = parser.parse_args()
    command = given.command
    if command == "check":
        found = asyncio.run(check(load(settings), given.ai))
        for finding in found:
            print(json.dumps(finding.as_dict()))  # noqa: T201
        return int(any(finding.status is Status.FAILED for finding in found))
    if command == "migrate":
        of_database = load(database_settings)
        logs.configure(service=name, format=of_database.log_format, level=of_database.log_level)
        print(migrate(of_database))  # noqa: T201
        return 0
    return run(name, settings, serve)


def run(name: str, settings: type[Listener], serve: Callable[[Listener], Coroutine[Any, Any, None]]) -> int:
    """Read the `settings` and serve as they say, in as many processes; return the exit code."""
    loaded = load(settings)
    logs.configure(service=name, format=loaded.log_format, level=loaded.log_level)
    if not is_loopback(loaded.listen) and not loaded.tls_cert_file:
        logger.warning(
            "%s=%s can be reached from other machines, and without TLS: who is on the way reads tokens and texts. Set "
            "TLS_CERT_FILE and TLS_KEY_FILE, unless a proxy on this machine or a mesh encrypts",
            loaded.listen_variable,
            loaded.listen,
        )

    level = logs.LevelSwitch(loaded.log_level)

    async def serve_with_signals(number: int) -> None:
        # By the loop: a handler of Python's own could log in the middle of another line.
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, level.change)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})  # held back since the start (held_signals)
        await serve(loaded.for_process(number))

    def serve_one(number: int) -> None:
        uvloop.run(serve_with_signals(number))
        tasks.exit_now()

    return prefork.run(loaded.processes, loaded.listen, serve_one, level, variable=loaded.listen_variable)
