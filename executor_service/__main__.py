"""The command executor-service."""

import sys

import servicekit.held_signals  # before all that takes long
import servicekit.rpc.grpc_log  # noqa: F401  # before all that imports gRPC
from executor_service import app
from executor_service.check import check
from executor_service.settings import ExecutorDatabaseSettings, ExecutorSettings
from servicekit import command

DESCRIPTION = """\
Serve ExecutorService and CatalogService: execute runs, keep projects, products, drafts and AI usage.
"""

VARIABLES = """\
  EXECUTOR_DATABASE_URL     postgresql://user:password@host:5432/database   (required)
  EXECUTOR_LISTEN           HOST:PORT to serve at (127.0.0.1:50052)
  EXECUTOR_WORKERS          processes at EXECUTOR_LISTEN, for machines with more cores (1)
  EXECUTOR_DATABASE_POOL_SIZE  connections to PostgreSQL of each process for the work of runs (10); callers' requests
                            have half as many of their own (5, of which estimates take at most 2) and leases have 4,
                            so that none waits for the others: at most 19 in all
  EXECUTOR_CONCURRENCY      runs at once in this process (16)
  EXECUTOR_LEASE_SECONDS    time after which the runs of a dead process are taken over (15)
  EXECUTOR_GRACE_SECONDS    time that running work gets to end at a stop; then it is handed back (5)
  EXECUTOR_RETENTION_DAYS   days that executions are kept with their items (from the creation of their run), suggestions
                            after their last use, and drafts after their expiry; 0: for ever (90)
  BROKER_URL                redis://, rediss:// (verified; ?ssl_ca_certs=FILE), sentinel://HOST:26379/0?master_name=NAME,
                            amqp://, amqps:// or another Kombu URL; unset: runs come by ExecuteRun only
  ENABLE_QUEUE_PROCESSORS   false: nothing is consumed or published, with or without BROKER_URL (true)
  DEFAULT_PLAN              FREE, PRO or BUSINESS: the plan of projects that their owners create; other plans and
                            limits are set by the platform: OWNER of "*", or SERVICE (FREE)
  AI_PROVIDER               openai or offline; unset: openai when OPENAI_API_KEY is set, else offline
  AI_MODEL, OPENAI_API_KEY, OPENAI_BASE_URL   the model, the key, another server of the same protocol: its final
                            address, for redirects are not followed; https, unless the network is yours alone
  AI_CONCURRENCY            AI requests at once in this process, each of which reads up to 4 MB (16)
  AI_BATCH_SIZE             products in a request (10)
  HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY   proxies to the provider: http://, https://, socks5://, socks5h://
  SSL_CERT_FILE, SSL_CERT_DIR   certificates to trust instead of the usual ones, for the provider
  AI_TIMEOUT_SECONDS        time that a request may take (60)
  AI_ECONOMY_TIMEOUT_SECONDS   the same for runs with meta.economy (900), which have AI_CONCURRENCY of their own
  AI_PRICES                 dollars for a million tokens by model, for the metric of costs, as JSON or a file with it:
                            {"gpt-6-luna": {"input": 0.25, "cached_input": 0.025, "output": 2}}; unset: none
  EXECUTOR_MAX_PRODUCTS     products of a project, about (1000000)
  MAX_REQUEST_BYTES         size of the largest request, uncompressed (1048576)
"""


def main() -> int:
    """Serve, or migrate; return the exit code."""
    return command.main(
        app.NAME,
        ExecutorSettings,
        ExecutorDatabaseSettings,
        description=DESCRIPTION,
        variables=VARIABLES,
        serve=app.serve,
        migrate=app.migrate,
        check=check,
    )


if __name__ == "__main__":
    sys.exit(main())
