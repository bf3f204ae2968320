"""The command runs-service."""

import argparse
import sys

import uvloop

import servicekit.rpc.grpc_log  # noqa: F401  # before all that imports gRPC
from runs_service import app
from runs_service.settings import RunsSettings
from servicekit import prefork as workers
from servicekit.background import tasks as lifecycle
from servicekit.config import settings
from servicekit.telemetry import logs

DESCRIPTION = """\
Serve RunsService: accept runs of automation playbooks, keep their history, let anyone watch.

  runs-service migrate    bring the schema up to date (safe from many processes at once)
  runs-service            serve until SIGTERM or Ctrl-C
"""

ENVIRONMENT = """\
environment variables (default):
  RUNS_DATABASE_URL         postgresql://user:password@host:5432/database   (required)
  RUNS_LISTEN               HOST:PORT to serve at (127.0.0.1:50051)
  EXECUTOR_TARGET           HOST:PORT of executor-service (127.0.0.1:50052)
  BROKER_URL                any Kombu URL: redis://..., amqp://...; unset: runs execute inline
  BROKER_QUEUE_PREFIX       what queues are named after; the same in both services (playbook-runs)
  ENABLE_QUEUE_PROCESSORS   false: runs execute inline, whatever BROKER_URL says (true)
  RUNS_INLINE_FALLBACK      true: runs execute inline while the broker is down (false)
  RUNS_RECONCILE_SECONDS    silence after which the executor is asked about a run (5)
  RUNS_DATABASE_POOL_SIZE   connections to PostgreSQL of each process (8)
  RUNS_WORKERS              processes at RUNS_LISTEN, for machines with more cores (1)
  AUTH_MODE                 jwt, or disabled with a loopback listener (jwt)
  AUTH_JWT_SECRET           HS256 secret, 32 characters or more; several are
                            separated by commas: the first one signs, each verifies
  AUTH_JWT_PUBLIC_KEY_FILE  PEM or JWKS file: users' tokens are RS256 (2048 bits or more), ES256 or EdDSA
                            (Ed25519); it is read again when it changes
  AUTH_JWT_AUDIENCE         what tokens must have in `aud`; unset: anything
  AUTH_JWT_ISSUER           what tokens must have in `iss`; unset: anything
  AUTH_JWT_MAX_LIFETIME_SECONDS   tokens that are valid for longer are refused (2592000: 30 days)
  TLS_CERT_FILE, TLS_KEY_FILE, TLS_CLIENT_CA_FILE   TLS; with the last, mutual TLS
  TLS_CA_FILE               certificates to trust when calling the other service; unset: TLS_CLIENT_CA_FILE,
                            else our own certificate
  MAX_REQUEST_BYTES         size of the largest request, unpacked (131072)
  MAX_RECEIVING_BYTES       what requests that arrive or are not answered yet may hold together (67108864)
  MAX_RECEIVE_SECONDS       time in which a request must have arrived (10)
  MAX_STREAMS_PER_CONNECTION, MAX_CONNECTIONS, MAX_CALLS   calls under way on a connection (1000), connections
                            (10000), calls under way in a process, of which one caller gets half (10000)
  REFLECTION                false: gRPC reflection is off (true)
  METRICS_LISTEN            HOST:PORT for Prometheus; unset: off; with several workers each takes the next port
  LOG_FORMAT                json or console (json)
  LOG_LEVEL                 DEBUG, INFO, WARNING or ERROR (INFO)
"""


def main() -> int:
    """Serve, or migrate; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="runs-service",
        description=DESCRIPTION,
        epilog=ENVIRONMENT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", nargs="?", choices=["serve", "migrate"], default="serve")
    command = parser.parse_args().command
    loaded = settings.load(RunsSettings)
    logs.configure(service=app.NAME, format=loaded.log_format, level=loaded.log_level)
    if command == "migrate":
        app.migrate(loaded)
        return 0
    variable = loaded.listen_variable
    return workers.run(loaded.workers, loaded.listen, lambda n: _serve(loaded.of_worker(n)), variable=variable)


def _serve(loaded: RunsSettings) -> None:
    uvloop.run(app.serve(loaded))
    lifecycle.exit_now()


if __name__ == "__main__":
    sys.exit(main())
