"""A stream goes on for as long as its caller's token does, and not longer."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty

from devstack.ports import HOST
from executor_service.settings import ExecutorSettings
from runs_client.errors import ServiceCallError
from servicekit.auth.principals import Role
from servicekit.rpc.server import Registration, Server
from servicekit.telemetry.metrics import Metrics
from tests.support.tokens import SECRET, hs256

STREAM = "/test.Streams/Follow"
DEADLINE = 20  # seconds; a call that is not ended by the server fails the test with DEADLINE_EXCEEDED
SETTINGS = ExecutorSettings(
    database_url="postgresql://h/d", auth_jwt_secret=SECRET, listen=f"{HOST}:0", reflection=False
)


class Streams:
    """Sends one message at once, and another one on demand."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.left = asyncio.Event()

    async def follow(self, _request: Empty, context: Any) -> None:
        try:
            await context.write(Empty())
            await self.go_on.wait()
            await context.write(Empty())
        finally:
            self.left.set()


def add(streams: Streams, server: Any) -> None:
    handler = grpc.unary_stream_rpc_method_handler(streams.follow, Empty.FromString, Empty.SerializeToString)
    handlers = grpc.method_handlers_generic_handler("test.Streams", {"Follow": handler})
    server.add_generic_rpc_handlers([handlers])


@pytest.fixture
async def streams() -> Streams:
    return Streams()


@pytest.fixture
async def channel(streams: Streams) -> AsyncIterator[grpc.aio.Channel]:
    server = Server(SETTINGS, [Registration("test.Streams", streams, add)], {STREAM: Role.VIEWER}, Metrics())
    await server.start()
    async with grpc.aio.insecure_channel(server.address) as opened:
        yield opened
    await server.stop(0)


def follow(channel: grpc.aio.Channel, expires: float, role: str = "VIEWER") -> Any:
    token = hs256(sub="u", projects={"*": role}, exp=expires)
    return channel.unary_stream(STREAM)(b"", metadata=(("authorization", f"Bearer {token}"),), timeout=DEADLINE)


async def test_a_stream_ends_when_its_token_expires(channel: grpc.aio.Channel, streams: Streams) -> None:
    expires = time.time() + 1.5
    call = follow(channel, expires)
    assert await call.read() == b""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call.read()
    assert time.time() >= expires
    error = ServiceCallError.from_call(raised.value, "")
    assert (error.code, error.reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED")
    await asyncio.wait_for(streams.left.wait(), DEADLINE)


async def test_a_token_that_has_just_expired_is_good_for_the_leeway(
    channel: grpc.aio.Channel, streams: Streams
) -> None:
    call = follow(channel, time.time() - 1)
    assert await call.read() == b""
    streams.go_on.set()
    assert await call.read() == b""
    assert await call.read() is grpc.aio.EOF


async def test_the_services_own_streams_outlive_their_tokens(channel: grpc.aio.Channel, streams: Streams) -> None:
    expires = time.time() + 0.5
    call = follow(channel, expires, role="SERVICE")
    assert await call.read() == b""
    following = asyncio.create_task(call.read())
    _, waiting = await asyncio.wait([following], timeout=1.0)
    assert waiting
    streams.go_on.set()
    assert await following == b""
