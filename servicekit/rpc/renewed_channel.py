"""A channel whose connections use the certificates that are in the files now: gRPC's own keep those of their start."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import grpc

from servicekit.rpc.credentials import TlsFiles

GRACE: Final = 3_600.0  # seconds that calls get to end over connections with certificates that were replaced


class RenewedChannel(grpc.aio.Channel):
    """A channel that `connect` opens anew when the `files` change. Calls under way go on over the old one."""

    def __init__(self, connect: Callable[[], grpc.aio.Channel], files: TlsFiles) -> None:
        self._connect = connect
        self._files = files
        self._channel = connect()
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def current(self) -> grpc.aio.Channel:
        """The channel for new calls."""
        if self._files.read_again():
            closing = asyncio.create_task(self._channel.close(GRACE), name="close a channel with replaced certificates")
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
            self._channel = self._connect()
        return self._channel

    async def close(self, grace: float | None = None) -> None:
        """Close all connections; calls that are open after `grace` seconds are cancelled."""
        if old := list(self._closing):
            for closing in old:
                closing.cancel()
            await asyncio.wait(old)
        await self._channel.close(grace)

    async def __aenter__(self) -> "RenewedChannel":
        """Return the channel."""
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Return the state of the connections for new calls."""
        return self.current.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Return when that state is another one."""
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Return when there is a connection."""
        await self.current.channel_ready()

    def unary_unary(self, *arguments: Any, **options: Any) -> Any:
        """Return what makes calls of a method."""
        return _Callable(self, "unary_unary", arguments, options)

    def unary_stream(self, *arguments: Any, **options: Any) -> Any:
        """Return what makes calls that a stream answers."""
        return _Callable(self, "unary_stream", arguments, options)

    def stream_unary(self, *arguments: Any, **options: Any) -> Any:
        """Return what makes calls with a stream."""
        return _Callable(self, "stream_unary", arguments, options)

    def stream_stream(self, *arguments: Any, **options: Any) -> Any:
        """Return what makes calls with a stream that a stream answers."""
        return _Callable(self, "stream_stream", arguments, options)


class _Callable:
    """Calls of one method, each over the channel that is current then."""

    def __init__(self, channel: RenewedChannel, kind: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        self._channel = channel
        self._made_with = kind, arguments, options
        self._current = channel.current
        self._callable = self._of(self._current)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        current = self._channel.current
        if current is not self._current:
            self._current, self._callable = current, self._of(current)
        return self._callable(*arguments, **options)

    def _of(self, channel: grpc.aio.Channel) -> Callable[..., Any]:
        kind, arguments, options = self._made_with
        made: Callable[..., Any] = getattr(channel, kind)(*arguments, **options)
        return made
