"""All connections that the gateway accepts are in use: open ones are served, new ones are refused with the reason."""

import asyncio
import resource
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import psutil
from playbooks.runs.v1.run_pb2 import Run

from devstack.ports import HOST
from tests.faults.sizes import size
from tests.support.http import client, watching
from tests.support.waiting import eventually

CONNECTIONS = size(10_000, 2_000)
AT_ONCE = 500
MEMORY = 40_000  # bytes a connection


async def test_every_connection_is_taken_and_those_that_are_there_are_served(start_stack: Callable[..., Any]) -> None:
    shop = await start_stack(http=True, gateway_env={"MAX_CONNECTIONS": str(CONNECTIONS), "MAX_RECEIVE_SECONDS": "300"})
    shop.stack.executors[0].kill()  # so that the run waits
    run = (await shop.create(Run.PREVIEW_GENERATE)).run
    gateway = shop.stack.gateway
    process = psutil.Process(gateway.pid)
    async with shop.http() as http, watching(http, f"runs/{run.id}:watch") as stream:
        await stream.next()
        assert (await http.get(f"runs/{run.id}")).status_code == httpx2.codes.OK
        before = process.memory_info().rss
        async with connections(gateway.url, CONNECTIONS - 2) as last:
            assert await refused(gateway.url)
            assert (await http.get(f"runs/{run.id}")).status_code == httpx2.codes.OK
            assert (await http.post(f"runs/{run.id}:cancel")).status_code == httpx2.codes.OK
            assert (await stream.rest())[-1].json["status"] == "CANCELLED"
            assert await answers(last)
            assert process.memory_info().rss - before < CONNECTIONS * MEMORY
    await eventually(lambda: serves(gateway.url))
    assert "Traceback" not in gateway.log.read_text()


@asynccontextmanager
async def connections(url: str, count: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Hold so many connections within the block; gives the last one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    held: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    try:
        while len(held) < count:
            more = min(AT_ONCE, count - len(held))
            held += await asyncio.gather(*(connect(url) for _ in range(more)))
        yield held[-1]
    finally:
        for _, writer in held:
            writer.transport.abort()
        await asyncio.sleep(0)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(HOST, int(url.rpartition(":")[2]))


async def refused(url: str) -> bool:
    reader, writer = await connect(url)
    try:
        return (await reader.read()).startswith(b"HTTP/1.1 503 ")
    finally:
        writer.transport.abort()


async def answers(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> bool:
    reader, writer = connection
    writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
    return (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200 ")


async def serves(url: str) -> bool:
    async with client(url) as http:
        return (await http.get("/healthz")).status_code == httpx2.codes.OK
