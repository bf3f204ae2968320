"""TLS between the services: which certificates the caller trusts and sends."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from devstack.ports import HOST
from executor_service.settings import ExecutorSettings
from runs_service.settings import RunsSettings
from servicekit.config.settings import ServiceSettings
from servicekit.rpc.channel import open_channel
from servicekit.rpc.server import Server
from servicekit.telemetry.metrics import Metrics
from tests.support.certificates import Authority

OTHERS = {"database_url": "postgresql://h/d", "auth_jwt_secret": "a secret of the services: 32 or more"}


@pytest.fixture
def tls(tmp_path: Path) -> Callable[..., dict[str, Path]]:
    """Settings of a service that has a certificate of its own, of one authority."""
    authority = Authority(tmp_path)

    def of(name: str, *trusts: str) -> dict[str, Path]:
        certificate, key = authority.issue(name)
        return {"tls_cert_file": certificate, "tls_key_file": key} | dict.fromkeys(trusts, authority.file)

    return of


@asynccontextmanager
async def executor(**settings: Any) -> AsyncIterator[str]:
    server = Server(ExecutorSettings(**OTHERS, listen=f"{HOST}:0", **settings), [], {}, Metrics())
    await server.start()
    try:
        yield server.address
    finally:
        await server.stop(0)


async def answers(address: str, settings: ServiceSettings) -> bool:
    async with open_channel(address, settings) as channel:
        try:
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
        except grpc.aio.AioRpcError:
            return False
    return True


@pytest.mark.parametrize(
    ("of_executor", "of_runs", "does"),
    [
        ((), ("tls_ca_file",), True),
        ((), ("tls_client_ca_file",), True),
        ((), (), False),  # it trusts its own certificate only
        (("tls_client_ca_file",), ("tls_ca_file",), True),
        (("tls_client_ca_file",), ("tls_client_ca_file",), True),
    ],
)
async def test_services_with_a_certificate_each(
    of_executor: tuple[str, ...], of_runs: tuple[str, ...], does: bool, tls: Callable[..., dict[str, Path]]
) -> None:
    async with executor(**tls("executor", *of_executor)) as address:
        assert await answers(address, RunsSettings(**OTHERS, **tls("runs", *of_runs))) is does


async def test_services_with_one_certificate_need_no_authority(tls: Callable[..., dict[str, Path]]) -> None:
    shared = tls("shared")
    async with executor(**shared) as address:
        assert await answers(address, RunsSettings(**OTHERS, **shared))


async def test_a_service_without_a_certificate_trusts_the_configured_ones(tls: Callable[..., dict[str, Path]]) -> None:
    of_executor = tls("executor", "tls_ca_file")
    async with executor(**of_executor) as address:
        assert await answers(address, RunsSettings(**OTHERS, tls_ca_file=of_executor["tls_ca_file"]))
        assert not await answers(address, RunsSettings(**OTHERS))
