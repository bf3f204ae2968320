"""HTTP as cheap as a client can have it: requests over one kept connection, and many open event streams."""

import asyncio
import json
import socket
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from benchmarks.harness import require

TIMEOUT = 60.0  # seconds


class Connection:
    """One connection to the gateway, kept within the `with` block."""

    def __init__(self, target: str, token: str) -> None:
        host, _, port = target.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=TIMEOUT)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._head = f"host: {target}\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._socket.close()

    def timed(self, method: str, path: str, content: Any = None) -> float:
        """Return the seconds that a call takes. Fails unless it is answered with 200 or 201."""
        body = b"" if content is None else json.dumps(content).encode()
        request = f"{method} {path} HTTP/1.1\r\n{self._head}content-length: {len(body)}\r\n\r\n".encode() + body
        started = time.perf_counter()
        self._socket.sendall(request)
        received = self._socket.recv(65_536)
        while b"\r\n\r\n" not in received:
            received += self._socket.recv(65_536)
        head, _, rest = received.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        while len(rest) < length:
            rest += self._socket.recv(65_536)
        seconds = time.perf_counter() - started
        require(head.startswith((b"HTTP/1.1 200", b"HTTP/1.1 201")), f"{method} {path}: {received[:500]!r}")
        return seconds


async def open_streams(target: str, token: str, paths: Sequence[str]) -> list[asyncio.StreamWriter]:
    """Open an event stream for each of `paths`, and return when each has sent its first event."""
    room = asyncio.Semaphore(50)

    async def open_one(path: str) -> asyncio.StreamWriter:
        async with room:
            host, _, port = target.rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n".encode())
            async with asyncio.timeout(TIMEOUT):
                head = await reader.readuntil(b"\r\n\r\n")
                require(b" 200 " in head, f"{path}: {head!r}")
                await reader.readuntil(b"event: snapshot")
            return writer

    return await asyncio.gather(*(open_one(path) for path in paths))
