"""The command runs-service."""

import sys

import servicekit.held_signals  # before all that takes long
import servicekit.rpc.grpc_log  # noqa: F401  # before all that imports gRPC
from runs_service import app
from runs_service.check import check
from runs_service.settings import RunsDatabaseSettings, RunsSettings
from servicekit import command

DESCRIPTION = """\
Serve RunsService: accept runs of automation playbooks, keep their history, let anyone watch.
"""

VARIABLES = """\
  RUNS_DATABASE_URL         postgresql://user:password@host:5432/database   (required)
  RUNS_LISTEN_DATABASE_URL  where LISTEN goes when RUNS_DATABASE_URL leads through a pooler that lends connections by
                            the transaction (PgBouncer): past it, or to a pool of sessions; unset: the same
  RUNS_LISTEN               HOST:PORT to serve at (127.0.0.1:50051)
  RUNS_WORKERS              processes at RUNS_LISTEN, for machines with more cores (1)
  RUNS_DATABASE_POOL_SIZE   connections to PostgreSQL of each process (8)
  RUNS_RECONCILE_SECONDS    silence after which the executor is asked about a run (5)
  RUNS_RETENTION_DAYS       days that ended runs are kept with their history, from their creation; 0: for ever (90)
  RUNS_RETENTION_DAYS_SUCCEEDED, _FAILED, _STALE, _CANCELLED
                            the same for runs of one status, where it differs
  EXECUTOR_TARGET           HOST:PORT of executor-service (127.0.0.1:50052)
  TLS_CA_FILE               CA certificates for calls to executor-service; unset: TLS_CLIENT_CA_FILE,
                            else our own certificate
  BROKER_URL                redis://, rediss:// (verified; ?ssl_ca_certs=FILE), sentinel://HOST:26379/0?master_name=NAME,
                            amqp://, amqps:// or another Kombu URL; unset: runs execute inline
  ENABLE_QUEUE_PROCESSORS   false: runs execute inline, with or without BROKER_URL (true)
  RUNS_INLINE_FALLBACK      true: runs execute inline while the broker is down (false)
  RUNS_MAX_CREATES_PER_SECOND  runs that a project may create in a second at this process, for seconds on end (200)
  RUNS_MAX_QUEUED           runs of a project that may wait for an executor, about (10000)
  MAX_REQUEST_BYTES         size of the largest request, uncompressed (131072)
"""


def main() -> int:
    """Serve, or migrate; return the exit code."""
    return command.main(
        app.NAME,
        RunsSettings,
        RunsDatabaseSettings,
        description=DESCRIPTION,
        variables=VARIABLES,
        serve=app.serve,
        migrate=app.migrate,
        check=check,
    )


if __name__ == "__main__":
    sys.exit(main())
