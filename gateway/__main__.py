"""The command runs-gateway."""

import argparse
import sys

import servicekit.held_signals  # before all that takes long
import servicekit.rpc.grpc_log  # noqa: F401  # before all that imports gRPC
from gateway import app
from gateway.settings import GatewaySettings
from servicekit import command

VARIABLES = """\
  GATEWAY_LISTEN            HOST:PORT to serve HTTP at (127.0.0.1:8080)
  GATEWAY_WORKERS           processes at GATEWAY_LISTEN, for machines with more cores (1)
  RUNS_TARGET               HOST:PORT of runs-service (127.0.0.1:50051)
  EXECUTOR_TARGET           HOST:PORT of executor-service (127.0.0.1:50052)
  GATEWAY_CORS_ORIGINS      origins whose pages may call, separated by commas; *: all; unset: none but our own
  GATEWAY_ROUTES_AT_ROOT    true: the routes are at / as well as at /api (false)
  GATEWAY_MAX_BODY_BYTES    size of the largest request body (524288)
  GATEWAY_CALL_SECONDS      time after which a call without an answer is 504 (55)
  TRACE_URL                 where a run's page links to for its trace: https://HOST/{trace_id}; unset: it shows the id
  MAX_CONNECTIONS           connections of a process (10000)
  MAX_RECEIVE_SECONDS       time in which a request's headers must have arrived, and then its body (10)
  TLS_CERT_FILE, TLS_KEY_FILE, TLS_CLIENT_CA_FILE   HTTPS; with the last, clients need a certificate
  TLS_CA_FILE               CA certificates for calls to the services; unset: TLS_CLIENT_CA_FILE, else our own
                            certificate
"""


def main() -> int:
    """Serve; return the exit code."""
    parser = argparse.ArgumentParser(
        prog=app.NAME,
        description="Serve the REST routes of both services over HTTP, and their streams as Server-Sent Events, until "
        "SIGTERM or Ctrl-C. It has no secret: callers' tokens go on to the services.",
        epilog=f"environment variables (default):\n{VARIABLES}{command.LISTENER_VARIABLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args()
    return command.run(app.NAME, GatewaySettings, app.serve)


if __name__ == "__main__":
    sys.exit(main())
