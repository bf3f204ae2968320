"""The channel from one service to the other."""

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from devstack.ports import HOST
from executor_service.settings import ExecutorSettings
from servicekit.rpc.channel import open_channel
from tests.support.proxy import Proxy

SETTINGS = ExecutorSettings(database_url="postgresql://localhost/unused", ai_provider="offline", auth_mode="disabled")


async def test_a_service_that_is_slow_to_take_connections_is_reached() -> None:
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    port = server.add_insecure_port(f"{HOST}:0")
    await server.start()
    try:
        async with (
            Proxy(f"{HOST}:{port}", connect_seconds=0.8) as slow,
            open_channel(slow.target, SETTINGS) as channel,
        ):
            check = health_pb2_grpc.HealthStub(channel).Check
            answer = await check(health_pb2.HealthCheckRequest(), timeout=10, wait_for_ready=True)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    finally:
        await server.stop(None)
