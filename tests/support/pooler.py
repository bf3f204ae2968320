"""What PgBouncer in transaction mode does to a connection, as seen from the client, before a real PostgreSQL."""

import asyncio
import contextlib
import struct
from typing import Self

SSL_REQUEST = struct.pack("!ii", 8, 80877103)
KEY_DATA, NOTIFICATION = b"K", b"A"


class Pooler:
    """Refuses `options` as a startup parameter (or drops them), has process ids of its own and, unless it pools by
    the session, passes no notification on. Use it with `async with`."""

    def __init__(self, host: str, port: int, *, by_session: bool = False) -> None:
        self._upstream = host, port
        self._by_session = by_session
        self.refused = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            start = await self._startup(reader, writer)
            if b"\0options\0" in start:
                self.refused += 1
                words = b"SFATAL\0C08P01\0Munsupported startup parameter in options: statement_timeout\0\0"
                writer.write(b"E" + struct.pack("!i", len(words) + 4) + words)
                await writer.drain()
            else:
                server_reader, server_writer = await asyncio.open_connection(*self._upstream)
                server_writer.write(start)
                await asyncio.gather(self._up(reader, server_writer), self._down(server_reader, writer))
        writer.close()

    async def _startup(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        while True:
            length = await reader.readexactly(4)
            packet = length + await reader.readexactly(struct.unpack("!i", length)[0] - 4)
            if packet[4:8] not in (SSL_REQUEST[4:], struct.pack("!i", 80877104)):
                return packet
            writer.write(b"N")  # no TLS, no GSS

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(65536):
            writer.write(chunk)
        writer.close()

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                head = await reader.readexactly(5)
                body = await reader.readexactly(struct.unpack("!i", head[1:])[0] - 4)
                if head[:1] == KEY_DATA:
                    body = struct.pack("!i", 1_999_999_999) + body[4:]
                if head[:1] != NOTIFICATION or self._by_session:
                    writer.write(head + body)
        writer.close()
