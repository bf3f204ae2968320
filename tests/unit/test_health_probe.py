"""The health probe says why a service does not serve."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from devstack.ports import free_ports
from servicekit.health_probe import is_serving, why_not_serving


@pytest.fixture
def servicer() -> health.HealthServicer:
    return health.HealthServicer()


@pytest.fixture
def target(servicer: health.HealthServicer) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(2))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None)


def test_one_that_serves(target: str) -> None:
    assert why_not_serving(target) is None
    assert is_serving(target)


def test_one_that_says_it_does_not_serve(target: str, servicer: health.HealthServicer) -> None:
    servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    assert why_not_serving(target) == f"{target} says NOT_SERVING"
    assert not is_serving(target)


def test_one_that_is_not_there() -> None:
    target = f"127.0.0.1:{free_ports(1)[0]}"
    probe = [sys.executable, "-m", "servicekit.health_probe", target]
    probed = subprocess.run(probe, capture_output=True, text=True, check=False)
    assert (probed.returncode, probed.stdout) == (1, "")
    (line,) = probed.stderr.splitlines()  # and none of gRPC's own log
    assert line.startswith(f"no answer from {target}: UNAVAILABLE: ")
    assert "Connection refused" in line


def test_a_server_that_speaks_tls_is_distinguished_from_one_that_is_not_there(target: str) -> None:
    why = why_not_serving(target, credentials=grpc.ssl_channel_credentials())
    assert why is not None
    assert "handshake" in why.lower() or "ssl" in why.lower()
