"""TLS between the services: which certificates the caller trusts and sends."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from devstack.ports import HOST, free_ports
from executor_service.settings import ExecutorSettings
from runs_service.settings import RunsSettings
from servicekit.config.settings import ServiceSettings
from servicekit.rpc.channel import open_channel
from servicekit.rpc.server import Server
from servicekit.telemetry.metrics import Metrics
from tests.support.certificates import Authority
from tests.support.waiting import eventually

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
async def executor(*, listen: str = f"{HOST}:0", **settings: Any) -> AsyncIterator[str]:
    server = Server(ExecutorSettings(**OTHERS, listen=listen, **settings), [], {}, Metrics())
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


class Replaced:
    """The files of one certificate, which get another one of another authority; callers and servers share them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.authority = self._write(Authority(folder / "first"))

    @property
    def files(self) -> dict[str, Path]:
        return {name: self._folder / name for name in ("tls_cert_file", "tls_key_file", "tls_client_ca_file")}

    def replace(self, *, only: str = "") -> Path:
        """Replace all files, or `only` one, by those of another authority; return that one's certificate."""
        return self._write(Authority(self._folder / "second"), only)

    def _write(self, authority: Authority, only: str = "") -> Path:
        certificate, key = authority.issue("any")
        for name, source in zip(self.files, (certificate, key, authority.file), strict=True):
            if only in ("", name):
                draft = self._folder / "draft"
                draft.write_bytes(source.read_bytes())
                draft.replace(self._folder / name)
        return authority.file


def of_authority(file: Path) -> dict[str, Path]:
    """Return the settings of a caller that trusts an authority and has a certificate of it."""
    return {name: file.with_name(f"any.{end}") for name, end in (("tls_cert_file", "pem"), ("tls_key_file", "key"))} | {
        "tls_ca_file": file
    }


async def test_a_server_takes_certificates_that_are_replaced_without_a_restart(tmp_path: Path) -> None:
    replaced = Replaced(tmp_path)
    first = RunsSettings(**OTHERS, **of_authority(replaced.authority))
    async with executor(**replaced.files) as address:
        assert await answers(address, first)
        second = RunsSettings(**OTHERS, **of_authority(replaced.replace()))
        await eventually(lambda: answers(address, second))
        assert not await answers(address, first)  # neither trusts the other any more


async def test_files_that_do_not_fit_together_yet_change_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    replaced = Replaced(tmp_path)
    first = RunsSettings(**OTHERS, **of_authority(replaced.authority))
    async with executor(**replaced.files) as address:
        replaced.replace(only="tls_cert_file")

        async def is_logged() -> bool:
            assert await answers(address, first)
            return "the key of another certificate" in caplog.text

        await eventually(is_logged)
        assert caplog.text.count("the key of another certificate") == 1


async def test_a_channel_calls_with_certificates_that_are_replaced(tmp_path: Path) -> None:
    replaced = Replaced(tmp_path)
    async with open_channel(
        f"{HOST}:{(port := free_ports(1)[0])}", RunsSettings(**OTHERS, **replaced.files)
    ) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check

        async def answered() -> bool:
            try:
                await check(health_pb2.HealthCheckRequest(), timeout=5)
            except grpc.aio.AioRpcError:
                return False
            return True

        async with executor(listen=f"{HOST}:{port}", **replaced.files):
            assert await answered()
        replaced.replace()
        async with executor(listen=f"{HOST}:{port}", **replaced.files):
            await eventually(answered)


async def test_a_call_under_way_goes_on_when_certificates_are_replaced(tmp_path: Path) -> None:
    replaced = Replaced(tmp_path)
    async with (
        executor(**replaced.files) as address,
        open_channel(address, RunsSettings(**OTHERS, **replaced.files)) as channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        following = asyncio.create_task(watch.read())
        first = channel.current
        replaced.replace()
        await eventually(lambda: channel.current is not first)
        await eventually(lambda: answers(address, RunsSettings(**OTHERS, **replaced.files)))
        await stub.Check(health_pb2.HealthCheckRequest(), timeout=5)
        ended, _ = await asyncio.wait([following], timeout=0.3)
        assert not ended
        watch.cancel()
        await asyncio.wait([following])


async def test_a_channel_with_replaced_certificates_whose_close_is_cancelled_says_so(tmp_path: Path) -> None:
    replaced = Replaced(tmp_path)
    async with executor(**replaced.files) as address:
        channel = open_channel(address, RunsSettings(**OTHERS, **replaced.files))
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        await watch.read()
        first = channel.current
        replaced.replace()
        await eventually(lambda: channel.current is not first)
        closing = asyncio.create_task(channel.close())
        await asyncio.sleep(0)  # it waits for the end of the first connections now
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        watch.cancel()
        await channel.close()
