"""The command executor-service."""

import argparse
import sys

import uvloop

from executor_service import app
from executor_service.settings import ExecutorSettings
from servicekit import lifecycle, logs, settings, workers

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
  EXECUTOR_GRACE_SECONDS    time running work gets to end when told to stop; then it is handed back (5)
  EXECUTOR_DATABASE_POOL_SIZE  connections to PostgreSQL of each process (10)
  EXECUTOR_WORKERS          processes at EXECUTOR_LISTEN, for machines with more cores (1)
  AI_PROVIDER               openai or offline; unset: openai when OPENAI_API_KEY is set, else offline
  AI_MODEL, OPENAI_API_KEY, OPENAI_BASE_URL   the model, the key, another server of the same protocol
  AI_CONCURRENCY            AI requests at once in this process (16)
  AI_BATCH_SIZE             products a request (10)
  AI_TIMEOUT_SECONDS        time a request may take (60)
  AUTH_MODE                 jwt, or disabled with a loopback listener (jwt)
  AUTH_JWT_SECRET           HS256 secret, 32 characters or more; the same as runs-service's, for it
                            signs the messages at the broker, too
  AUTH_JWT_PUBLIC_KEY_FILE  PEM or JWKS file: users' tokens are RS256, ES256 or EdDSA
  TLS_CERT_FILE, TLS_KEY_FILE, TLS_CLIENT_CA_FILE   TLS; with the last, mutual TLS
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
