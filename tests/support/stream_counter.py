"""How many event streams a browser has open: a relay before the gateway that counts them."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from devstack.ports import HOST

CHUNK = 64 * 1024
WATCH = re.compile(rb"GET [^ ?]*:watch[ ?]")
LAST = b"0\r\n\r\n"  # chunk of a body


class StreamCounter:
    """The event streams that came through the relay at `url`.

    One is open from its request until its connection is closed, or its last chunk has come.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.total = self.most = 0  # `most`: at a time
        self._open: set[object] = set()

    def begin(self, stream: object) -> None:
        self._open.add(stream)
        self.total += 1
        self.most = max(self.most, len(self._open))

    def end(self, stream: object) -> None:
        self._open.discard(stream)


@asynccontextmanager
async def counting_streams(url: str) -> AsyncIterator[StreamCounter]:
    """Enter a counter before the gateway at `url`."""
    target = url.partition("://")[2]
    serving: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        try:
            await _relay(counter, target, reader, writer)
        finally:
            writer.transport.abort()
            serving.discard(task)

    server = await asyncio.start_server(accept, HOST, 0)
    counter = StreamCounter(f"http://{HOST}:{server.sockets[0].getsockname()[1]}")
    try:
        yield counter
    finally:
        server.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


async def _relay(
    counter: StreamCounter, target: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Pass on what is said over one connection until one side closes it."""
    host, _, port = target.rpartition(":")
    connection = object()  # it has one request at a time
    gateway_reader, gateway_writer = await asyncio.open_connection(host, int(port))

    async def requests() -> None:
        while chunk := await reader.read(CHUNK):
            if WATCH.match(chunk):
                counter.begin(connection)
            gateway_writer.write(chunk)

    async def responses() -> None:
        while chunk := await gateway_reader.read(CHUNK):
            writer.write(chunk)
            if chunk.endswith(LAST):
                counter.end(connection)

    ways = [asyncio.ensure_future(requests()), asyncio.ensure_future(responses())]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        counter.end(connection)
        gateway_writer.transport.abort()
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
