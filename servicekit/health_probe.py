"""A gRPC health check for containers and scripts: `python -m servicekit.health_probe HOST:PORT`."""

import servicekit.rpc.grpc_log  # noqa: F401, I001  # before gRPC

import argparse
import sys
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from servicekit.telemetry.printable import printable

TIMEOUT = 3.0  # seconds
# Probes share no state: after a failed one the next would wait for the reconnect delay.
OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))


def is_serving(target: str, timeout: float = TIMEOUT, credentials: grpc.ChannelCredentials | None = None) -> bool:
    """Return whether the service at `target` (HOST:PORT) answers SERVING within `timeout` seconds.

    With `credentials` the connection uses TLS.
    """
    return why_not_serving(target, timeout, credentials) is None


def why_not_serving(
    target: str,
    timeout: float = TIMEOUT,
    credentials: grpc.ChannelCredentials | None = None,
    *,
    any_answer: bool = False,
) -> str | None:
    """Return why the service at `target` (HOST:PORT) does not answer SERVING within `timeout` seconds; None: it does.

    With `credentials` the connection uses TLS. With `any_answer` NOT_SERVING is as good.
    """
    channel = (
        grpc.secure_channel(target, credentials, options=OPTIONS)
        if credentials
        else grpc.insecure_channel(target, options=OPTIONS)
    )
    with channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=timeout)
        except grpc.RpcError as error:
            return f"no answer from {target}: {_words_of(error)}"
    if any_answer or answer.status == health_pb2.HealthCheckResponse.SERVING:
        return None
    return f"{target} says {health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)}"


def _words_of(error: grpc.RpcError) -> str:
    """Return the code and gRPC's own words, which say whether the network, TLS or the service refused."""
    return printable(f"{error.code().name}: {' '.join((error.details() or '').split())}")


def main() -> None:
    """Exit with 0 if the service serves, 1 and a line that says why if not, 2 for wrong arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m servicekit.health_probe",
        description="Exit with 0 if a service serves, and with 1 and the reason on standard error if it does not.",
    )
    parser.add_argument("target", metavar="HOST:PORT")
    parser.add_argument("--ca-file", metavar="PEM", type=Path, help="use TLS, and trust these certificates")
    parser.add_argument("--cert-file", metavar="PEM", type=Path, help="our own certificate, for mutual TLS")
    parser.add_argument("--key-file", metavar="PEM", type=Path, help="the key of --cert-file")
    parser.add_argument(
        "--alive",
        action="store_true",
        help="any answer will do: for what restarts a process that hangs, and not one whose database is away",
    )
    given = parser.parse_args()
    if bool(given.cert_file) != bool(given.key_file):
        parser.error("--cert-file and --key-file go together: give both, or none")
    try:
        ca, key, certificate = (file and file.read_bytes() for file in (given.ca_file, given.key_file, given.cert_file))
    except OSError as error:
        parser.error(f"{error.filename} cannot be read: {error.strerror}")
    credentials = grpc.ssl_channel_credentials(ca, key, certificate) if ca or certificate else None
    sys.exit(why_not_serving(given.target, credentials=credentials, any_answer=given.alive))


if __name__ == "__main__":
    main()
