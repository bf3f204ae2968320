"""What unauthenticated callers can do to health and reflection, which are open to everyone: real processes."""

import asyncio
from collections.abc import Iterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.forking import Forks
from tests.support.http2 import DATA, Connection, frame, message
from tests.support.service import ServiceProcess, memory_of

MB = 1_000_000
CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
REFLECT = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
DEADLINE = 20  # seconds of a call


@pytest.fixture(scope="module")
def executor(
    executor_forks: Forks, executor_database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceProcess]:
    environment = {"EXECUTOR_DATABASE_URL": executor_database_url, "MAX_CALLS": "200"}
    with ServiceProcess(
        executor_forks, "executor", tmp_path_factory.mktemp("executor") / "log", environment
    ) as service:
        yield service


async def check(target: str) -> int:
    """Check the health as a probe does, over a connection of its own."""
    options = (("grpc.use_local_subchannel_pool", 1),)
    async with grpc.aio.insecure_channel(target, options=options) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=DEADLINE)
    return int(answer.status)


def opened(connection: Connection, method: str, count: int, data: bytes) -> None:
    """Open so many calls with `data` on each, and end none."""
    for _ in range(count):
        stream, opening = connection.call(method)
        connection.send(opening + frame(DATA, 0, stream, data))
    connection.listen(0.3)


async def test_requests_to_health_that_never_end_keep_no_probe_out(executor: ServiceProcess) -> None:
    with Connection(executor.target) as connection:
        await asyncio.to_thread(opened, connection, CHECK, 150, message(b"", announced=1_000))
        assert await check(executor.target) == health_pb2.HealthCheckResponse.SERVING


async def test_watchers_of_health_keep_no_probe_and_no_watcher_out(executor: ServiceProcess) -> None:
    with Connection(executor.target) as connection:
        body = message(b"")
        for _ in range(250):
            stream, opening = connection.call(WATCH)
            connection.send(opening + frame(DATA, 1, stream, body))
        await asyncio.to_thread(connection.listen, 0.3)
        assert await check(executor.target) == health_pb2.HealthCheckResponse.SERVING
        async with grpc.aio.insecure_channel(executor.target) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=DEADLINE)
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            watch.cancel()


async def test_streams_of_requests_hold_no_more_than_requests(
    executor_forks: Forks, executor_database: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    environment = {"EXECUTOR_DATABASE_URL": executor_database}
    size = 1_000_000
    with ServiceProcess(
        executor_forks, "executor", tmp_path_factory.mktemp("executor") / "log", environment
    ) as executor:
        with memory_of(executor) as growth, Connection(executor.target) as connection:
            streams = {}
            for _ in range(400):
                stream, opening = connection.call(REFLECT)
                connection.send(opening)
                streams[stream] = message(b"x" * (size - 1), announced=size)
            await asyncio.to_thread(connection.upload, streams, patience=1.0)
            growth.sample()
        assert growth.most < 150 * MB
