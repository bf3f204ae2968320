"""Pings on connections where nothing else happens: a server that minds them closes the connection after the third."""

import asyncio
from contextlib import AsyncExitStack

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from devstack.ports import HOST
from executor_service.settings import ExecutorSettings
from runs_client.connection import Connection
from servicekit.rpc.channel import open_channel
from servicekit.rpc.server import Server
from servicekit.telemetry.metrics import Metrics
from tests.faults.sizes import size

SECONDS = size(full=200, bounded=20)  # four pings of ours, and two of a caller that pings every 10 s
SETTINGS = ExecutorSettings(
    database_url="postgresql://h/d", auth_jwt_secret="a secret of the services: 32 or more", listen=f"{HOST}:0"
)
# As often as gRPC's guides say.
CALLER = (("grpc.keepalive_time_ms", 10_000), ("grpc.http2.max_pings_without_data", 0))


async def first_end(opened: list[grpc.aio.Channel]) -> grpc.StatusCode | None:
    """Watch the health over each channel; return how the first of these calls ends, None: none did in time."""

    async def watch(one: grpc.aio.Channel) -> grpc.StatusCode:
        call = health_pb2_grpc.HealthStub(one).Watch(health_pb2.HealthCheckRequest())
        try:
            assert (await call.read()).status == health_pb2.HealthCheckResponse.SERVING
            await call.read()
            return await call.code()
        except grpc.aio.AioRpcError as error:
            return error.code()
        finally:
            call.cancel()

    tasks = [asyncio.create_task(watch(one)) for one in opened]
    done, pending = await asyncio.wait(tasks, timeout=SECONDS, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    return done.pop().result() if done else None


async def test_calls_outlive_the_pings_of_their_callers() -> None:
    async with AsyncExitStack() as stack:
        server = Server(SETTINGS, [], {}, Metrics())
        await server.start()
        stack.push_async_callback(server.stop, 0)
        of_runs_service = open_channel(server.address, SETTINGS)
        of_a_caller = grpc.aio.insecure_channel(server.address, options=CALLER)
        client = Connection(server.address)
        for close in (of_runs_service.close, of_a_caller.close, client.close):
            stack.push_async_callback(close)
        assert await first_end([of_runs_service, of_a_caller, client.channel]) is None
