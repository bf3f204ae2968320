"""A network that fails: a TCP proxy between clients and a server, for the test's own event loop."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Self

CHUNK = 64 * 1024
FRAME_HEADER = 9  # bytes of an HTTP/2 frame: length (3), type, flags, stream (4)
DATA = 0  # the type of frames that carry a message

Clock = Callable[[], float]
Choice = Callable[[], bool]


class Proxy:
    """Passes bytes between clients of `target` (HOST:PORT) and a server, until something is cut. Clients see a reset.

        async with Proxy(stack.runs_target, lifetime=lambda: dice.uniform(1, 3)) as proxy:
            client = RunsClient(proxy.target)

    `lifetime` says, for each new connection, after how many seconds it is cut. `loses_response` is asked each time
    the first message of a gRPC response comes back, so the server has done what was asked: True cuts the connection
    in its place. A new connection is silent for `connect_seconds` at first. A client of its own proxy has a connection
    of its own: gRPC shares those to one address.
    """

    def __init__(
        self,
        target: str,
        *,
        lifetime: Clock | None = None,
        loses_response: Choice | None = None,
        connect_seconds: float = 0.0,
    ) -> None:
        host, _, port = target.rpartition(":")
        self._upstream = host, int(port)
        self._lifetime = lifetime
        self._loses_response = loses_response
        self._connect_seconds = connect_seconds
        self._open: set[_Link] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._refusing = False
        self._silent = False
        self.cuts = 0  # connections cut, for whatever reason

    @property
    def target(self) -> str:
        """The address for clients."""
        host, port = self._server.sockets[0].getsockname()
        return f"{host}:{port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        if self._serving:
            await asyncio.wait(self._serving)
        await self._server.wait_closed()

    def cut(self) -> None:
        """Cut all connections, now."""
        for link in list(self._open):
            self._cut(link)

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """Within the block there are no connections: those there are are cut, new ones at once."""
        self._refusing = True
        self.cut()
        try:
            yield
        finally:
            self._refusing = False

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        """Within the block the network is a black hole: connections stay, new ones are accepted, nothing gets through.

        No peer notices: those connections stay silent after the block, when new ones work again.
        """
        self._silent = True
        for link in self._open:
            link.silent = True
        try:
            yield
        finally:
            self._silent = False

    def _cut(self, link: "_Link") -> None:
        if link in self._open:
            self._open.remove(link)
            self.cuts += 1
        link.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            await self._serve(reader, writer)
        except OSError:
            pass  # one side is gone, or was never there: the other sees the same
        finally:
            writer.transport.abort()
            self._serving.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            return
        if self._silent:
            await self._swallow(reader, writer)
            return
        await asyncio.sleep(self._connect_seconds)
        server_reader, server_writer = await asyncio.open_connection(*self._upstream)
        link = _Link(writer, server_writer)
        self._open.add(link)
        timer = None
        if self._lifetime:
            timer = asyncio.get_running_loop().call_later(self._lifetime(), self._cut, link)
        try:
            async with asyncio.TaskGroup() as ways:
                ways.create_task(self._pass(link, reader, server_writer, None))
                ways.create_task(self._pass(link, server_reader, writer, _Responses()))
        except* OSError:
            pass
        finally:
            if timer:
                timer.cancel()
            self._open.discard(link)
            link.abort()

    async def _swallow(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(writer)
        self._open.add(link)
        try:
            while await reader.read(CHUNK):
                pass
        finally:
            self._open.discard(link)

    async def _pass(
        self,
        link: "_Link",
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        responses: "_Responses | None",
    ) -> None:
        while chunk := await reader.read(CHUNK):
            if link.silent:
                continue
            if responses and self._loses_response:
                for _ in range(responses.begun_in(chunk)):
                    if self._loses_response():
                        self._cut(link)
                        return
            writer.write(chunk)
            await writer.drain()
        if link.silent and responses:
            return  # the server has closed its end; its client is not to hear of it
        link.abort()  # one end was closed; neither gRPC's clients nor its servers go on with half a connection


class _Link:
    """Both halves of one connection."""

    def __init__(self, *writers: asyncio.StreamWriter) -> None:
        self._writers = writers
        self.silent = False

    def abort(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


class _Responses:
    """Finds, in what one server sends, where the messages of its responses begin."""

    def __init__(self) -> None:
        self._header = b""
        self._skip = 0  # bytes of the frame under way that are still to come
        self._streams: set[bytes] = set()

    def begun_in(self, chunk: bytes) -> int:
        """Return how many responses have their first message's beginning in this chunk."""
        begun = 0
        position = 0
        while position < len(chunk):
            if self._skip:
                step = min(self._skip, len(chunk) - position)
                self._skip -= step
            else:
                step = min(FRAME_HEADER - len(self._header), len(chunk) - position)
                self._header += chunk[position : position + step]
                if len(self._header) == FRAME_HEADER:
                    self._skip = int.from_bytes(self._header[:3], "big")
                    kind, stream = self._header[3], self._header[5:]
                    self._header = b""
                    if kind == DATA and stream not in self._streams:
                        self._streams.add(stream)
                        begun += 1
            position += step
        return begun
