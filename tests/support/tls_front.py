"""TLS in front of the embedded PostgreSQL, which was built without it."""

import asyncio
import contextlib
import ssl
from typing import Any, Self

SSL_REQUEST = (8).to_bytes(4) + (80877103).to_bytes(4)


class TlsFront:
    """Answers PostgreSQL's request for TLS, demands a certificate of the client, and hands on what it says. Use it with
    `async with`."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext) -> None:
        self._upstream = host, port
        self._context = context
        self.port = 0
        self.names: list[Any] = []  # of the certificates of its clients
        self.plain = 0  # clients that spoke without TLS

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, self._upstream[0], 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError):  # the client does not trust us, or leaves
            if await reader.readexactly(8) == SSL_REQUEST:
                writer.write(b"S")
                await writer.start_tls(self._context)
                self.names.append(writer.get_extra_info("peercert")["subject"][0][0][1])
                upstream, to_upstream = await asyncio.open_connection(*self._upstream)
                await asyncio.gather(_pump(reader, to_upstream), _pump(upstream, writer))
            else:
                self.plain += 1
        writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await reader.read(65_536):
            writer.write(chunk)
            await writer.drain()
    writer.close()
