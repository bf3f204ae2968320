"""A gRPC server that stops, in one process: how the calls in flight and new calls end."""

import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty

from servicekit.auth.principals import NoAuthentication
from servicekit.rpc.admission import Admission
from servicekit.rpc.grpc_41785 import shutdown_connections
from servicekit.rpc.interceptors.decoding import Decoding
from servicekit.rpc.interceptors.draining import Draining
from servicekit.rpc.interceptors.errors import ErrorTranslation
from servicekit.rpc.interceptors.unknown_methods import unknown_method
from servicekit.rpc.services import InterceptedServices
from servicekit.telemetry.metrics import Metrics
from tests.support.limits import limits
from tests.support.stopping import assert_shutting_down


class Waiter:
    """A server whose calls last until `open` is set, and a count of those that were cancelled."""

    def __init__(self) -> None:
        self.calls = Draining()
        self.entered = asyncio.Semaphore(0)
        self.open = asyncio.Event()
        self.cancelled = 0
        self.server = grpc.aio.server()
        handlers = {
            "Unary": grpc.unary_unary_rpc_method_handler(self.unary, Empty.FromString, Empty.SerializeToString),
            "Stream": grpc.unary_stream_rpc_method_handler(self.stream, Empty.FromString, Empty.SerializeToString),
        }
        admission = Admission(NoAuthentication(), limits(), Metrics())
        services = InterceptedServices(
            [ErrorTranslation()], [self.calls, Decoding()], admission=admission, unknown=unknown_method
        )
        services.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Waiter", handlers)])
        self.server.add_generic_rpc_handlers([services])
        self.port = self.server.add_insecure_port("127.0.0.1:0")

    async def unary(self, request: Empty, context: Any) -> Empty:
        await self._wait()
        return Empty()

    async def stream(self, request: Empty, context: Any) -> None:
        await context.write(Empty())
        await self._wait()

    async def _wait(self) -> None:
        self.entered.release()
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


@pytest.fixture
async def waiter() -> AsyncIterator[Waiter]:
    waiter = Waiter()
    await waiter.server.start()
    yield waiter
    await waiter.server.stop(None)


@pytest.fixture
async def client(waiter: Waiter) -> AsyncIterator[Any]:
    options = (("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{waiter.port}", options=options) as channel:
        unary = channel.unary_unary("/test.Waiter/Unary", Empty.SerializeToString, Empty.FromString)
        stream = channel.unary_stream("/test.Waiter/Stream", Empty.SerializeToString, Empty.FromString)
        yield SimpleNamespace(unary=lambda: unary(Empty(), timeout=20), stream=lambda: stream(Empty(), timeout=20))


async def read_all(call: Any) -> int:
    return len([message async for message in call])


async def test_calls_under_way_are_waited_for(waiter: Waiter, client: Any) -> None:
    calls = [asyncio.create_task(read_all(client.stream())), asyncio.ensure_future(client.unary())]
    for _ in calls:
        await waiter.entered.acquire()
    waiter.calls.close()
    finishing = asyncio.create_task(waiter.calls.finish(20))
    for _ in range(3):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await client.unary()
        assert_shutting_down(refused.value)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await read_all(client.stream())
        assert_shutting_down(refused.value)
    assert not finishing.done()
    waiter.open.set()
    await finishing
    assert await calls[0] == 1
    assert await calls[1] == Empty()
    assert waiter.cancelled == 0


async def test_calls_that_outlast_the_grace_time_end_with_shutting_down(waiter: Waiter, client: Any) -> None:
    calls = [asyncio.create_task(read_all(client.stream())), asyncio.ensure_future(client.unary())]
    for _ in calls:
        await waiter.entered.acquire()
    waiter.calls.close()
    await waiter.calls.finish(0.01)
    for call in calls:
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await call
        assert_shutting_down(ended.value)
    assert waiter.cancelled == len(calls)  # their handlers cleaned up


async def test_a_cancellation_by_the_caller_has_priority(waiter: Waiter) -> None:
    """A handler that answers after it leaks memory in grpc.aio."""
    calls = waiter.calls
    call: Any = calls.intercept(waiter.unary, "/test.Waiter/Unary", Empty(), cast(Any, None))
    serving = asyncio.create_task(call)
    await waiter.entered.acquire()
    calls.close()
    serving.cancel()  # as grpc.aio does, in the same moment
    await calls.finish(0)
    assert serving.cancelled()


async def test_without_calls_a_stop_waits_for_nothing(waiter: Waiter) -> None:
    waiter.calls.close()
    async with asyncio.timeout(20):
        await waiter.calls.finish(60)


async def test_calls_on_a_connection_that_is_shut_down_end_as_unavailable(waiter: Waiter, client: Any) -> None:
    """gRPC's own stop would end them as CANCELLED."""
    calls = [asyncio.ensure_future(client.unary()) for _ in range(10)]
    for _ in calls:
        await waiter.entered.acquire()
    shutdown_connections(waiter.port)
    await waiter.server.stop(None)
    for call in calls:
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await call
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_client_whose_connection_is_shut_down_cannot_reconnect(waiter: Waiter, client: Any) -> None:
    """Otherwise gRPC's stop could still end its next call as CANCELLED."""
    calling = asyncio.ensure_future(client.unary())
    await waiter.entered.acquire()
    shutdown_connections(waiter.port)
    for call in (calling, client.unary(), client.unary()):
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await call
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", waiter.port)) == errno.ECONNREFUSED


async def test_connections_at_other_ports_stay(waiter: Waiter, client: Any) -> None:
    waiter.open.set()
    shutdown_connections(waiter.port + 1)
    assert await client.unary() == Empty()
