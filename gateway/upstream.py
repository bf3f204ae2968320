"""A service behind the gateway: its channels, and calls of its RPCs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.routes import Route
from servicekit.config.settings import ListenerSettings
from servicekit.rpc.channel import open_channel

# Half of what a service lets one connection have (MAX_STREAMS_PER_CONNECTION): beyond that, gRPC makes calls wait.
STREAMS_PER_CONNECTION: Final = 500
HEALTH_SECONDS: Final = 2.0

Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Call:
    """A call of an RPC: its route, service, request and metadata."""

    route: Route
    upstream: "Upstream"
    request: Message
    metadata: Metadata


class _Channel:
    """A channel with the callables of the RPCs that were called over it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.grpc = channel
        self.streams = 0  # that are open
        self._callables: dict[str, Any] = {}

    def callable(self, rpc: MethodDescriptor) -> Any:
        """Return what calls `rpc`."""
        found = self._callables.get(rpc.full_name)
        if found is None:
            kind = self.grpc.unary_stream if rpc.server_streaming else self.grpc.unary_unary
            self._callables[rpc.full_name] = found = kind(
                f"/{rpc.containing_service.full_name}/{rpc.name}",
                request_serializer=GetMessageClass(rpc.input_type).SerializeToString,
                response_deserializer=GetMessageClass(rpc.output_type).FromString,
            )
        return found


class Upstream:
    """A service at `target`, HOST:PORT; `name` is for people. Streams have connections of their own, as many as they
    need: they never make other calls wait."""

    def __init__(self, name: str, target: str, settings: ListenerSettings) -> None:
        self.name = name
        self._target = target
        self._settings = settings
        self._calls = _Channel(open_channel(target, settings))
        self._streams: list[_Channel] = []

    async def answer(self, call: Call, *, seconds: float) -> Message:
        """Return the response of a unary call. Raises grpc.aio.AioRpcError."""
        rpc = self._calls.callable(call.route.rpc)
        response: Message = await rpc(call.request, metadata=call.metadata, timeout=seconds)
        return response

    @contextmanager
    def stream(self, call: Call) -> Iterator[Any]:
        """Enter a call that is answered by a stream; it is cancelled at the end of the block, unless it has ended."""
        channel = self._with_room()
        channel.streams += 1
        stream = channel.callable(call.route.rpc)(call.request, metadata=call.metadata)
        try:
            yield stream
        finally:
            stream.cancel()
            channel.streams -= 1

    async def health(self) -> str:
        """Return what its health check says: SERVING, NOT_SERVING, or UNREACHABLE."""
        try:
            answer = await health_pb2_grpc.HealthStub(self._calls.grpc).Check(
                health_pb2.HealthCheckRequest(), timeout=HEALTH_SECONDS
            )
        except grpc.aio.AioRpcError:
            return "UNREACHABLE"
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))

    async def close(self) -> None:
        """Close its connections; calls that are open are cancelled."""
        for channel in (self._calls, *self._streams):
            await channel.grpc.close()

    def _with_room(self) -> _Channel:
        for channel in self._streams:
            if channel.streams < STREAMS_PER_CONNECTION:
                return channel
        self._streams.append(_Channel(open_channel(self._target, self._settings, own_connection=True)))
        return self._streams[-1]
