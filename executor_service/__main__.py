"""The command executor-service."""

import argparse
import sys

import uvloop

import servicekit.rpc.grpc_log  # noqa: F401  # before all that imports gRPC
from executor_service import app
from executor_service.settings import ExecutorSettings
from servicekit import prefork as workers
from servicekit.background import tasks as lifecycle
from servicekit.config import settings
from servicekit.telemetry import logs

DESCRIPTION = """\
Serve ExecutorService and CatalogService: execute runs, keep projects, products, drafts and AI usage.

  executor-service migrate    bring the schema up to date (safe from many processes at once)
  executor-service            serve until SIGTERM or Ctrl-C
"""

ENVIRONMENT = """\
environment variables (default):
  EXECUTOR_DATABASE_URL     postgresql://user:password@host:5432/database   (required)
  EXECUTOR_LISTEN           HOST:PORT to serve at (127.0.0.1:50052)
  BROKER_URL                any Kombu URL: redis://..., amqp://...; unset: runs come by ExecuteRun only
  BROKER_QUEUE_PREFIX       what queues are named after; the same in both services (playbook-runs)
  ENABLE_QUEUE_PROCESSORS   false: nothing is consumed or published, whatever BROKER_URL says (true)
  EXECUTOR_CONCURRENCY      runs at once in this process (16)
  EXECUTOR_LEASE_SECONDS    time after which the runs of a dead process are taken over (15)
  EXECUTOR_GRACE_SECONDS    time running work gets to end at SIGTERM; then it is handed back (5)
  EXECUTOR_DATABASE_POOL_SIZE  connections to PostgreSQL of each process for the work of runs (10); calls have
                            half as many of their own (5, of which estimates take 2 at most) and leases have 4,
                            so that none waits for another: at most 19 in all
  EXECUTOR_WORKERS          processes at EXECUTOR_LISTEN, for machines with more cores (1)
  DEFAULT_PLAN              FREE, PRO or BUSINESS: the plan of projects that their owners create; other plans and
                            limits are set by the platform: OWNER of "*", or SERVICE (FREE)
  AI_PROVIDER               openai or offline; unset: openai when OPENAI_API_KEY is set, else offline
  AI_MODEL, OPENAI_API_KEY, OPENAI_BASE_URL   the model, the key, another server of the same protocol: its final
                            address, for redirects are not followed; https, unless the network is yours alone
  AI_CONCURRENCY            AI requests at once in this process, each of which reads up to 4 MB (16)
  AI_BATCH_SIZE             products a request (10)
  AI_TIMEOUT_SECONDS        time a request may take (60)
  AUTH_MODE                 jwt, or disabled with a loopback listener (jwt)
  AUTH_JWT_SECRET           HS256 secret, 32 characters or more; the same as runs-service's; several are
                            separated by commas: the first one signs, each verifies
  AUTH_JWT_PUBLIC_KEY_FILE  PEM or JWKS file: users' tokens are RS256 (2048 bits or more), ES256 or EdDSA
                            (Ed25519); it is read again when it changes
  AUTH_JWT_AUDIENCE         what tokens must have in `aud`; unset: anything
  AUTH_JWT_ISSUER           what tokens must have in `iss`; unset: anything
  AUTH_JWT_MAX_LIFETIME_SECONDS   tokens that are valid for longer are refused (2592000: 30 days)
  TLS_CERT_FILE, TLS_KEY_FILE, TLS_CLIENT_CA_FILE   TLS; with the last, mutual TLS
  MAX_REQUEST_BYTES         size of the largest request, unpacked (1048576)
  MAX_RECEIVING_BYTES       what requests that arrive or are not answered yet may take together (67108864)
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
        prog="executor-service",
        description=DESCRIPTION,
        epilog=ENVIRONMENT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", nargs="?", choices=["serve", "migrate"], default="serve")
    command = parser.parse_args().command
    loaded = settings.load(ExecutorSettings)
    logs.configure(service=app.NAME, format=loaded.log_format, level=loaded.log_level)
    if command == "migrate":
        app.migrate(loaded)
        return 0
    variable = loaded.listen_variable
    return workers.run(loaded.workers, loaded.listen, lambda n: _serve(loaded.of_worker(n)), variable=variable)


def _serve(loaded: ExecutorSettings) -> None:
    uvloop.run(app.serve(loaded))
    lifecycle.leave()


if __name__ == "__main__":
    sys.exit(main())
