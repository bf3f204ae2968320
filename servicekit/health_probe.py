"""Ask for a service's health over gRPC, from containers and scripts: `python -m servicekit.health_probe HOST:PORT`."""

import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

TIMEOUT = 3.0  # seconds
# No state is shared between probes: one that failed must not make the next one wait its reconnect delay.
OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))


def is_serving(target: str, timeout: float = TIMEOUT) -> bool:
    """Say whether the service at `target` (HOST:PORT) answers SERVING within `timeout` seconds."""
    with grpc.insecure_channel(target, options=OPTIONS) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=timeout)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def main() -> None:
    """Exit with 0 if the service serves, 1 if not, 2 if it is not said which."""
    if len(sys.argv) != 2:
        print("usage: python -m servicekit.health_probe HOST:PORT", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    sys.exit(0 if is_serving(sys.argv[1]) else 1)


if __name__ == "__main__":
    main()
