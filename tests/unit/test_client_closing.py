"""What becomes of calls when the client of asyncio is closed under them."""

import asyncio
from typing import Any

import grpc
import pytest
from playbooks.runs.v1 import runs_service_pb2 as pb

from runs_client.client import RunsClient
from tests.support.scripted_service import SNAPSHOT, Context, Script, change, sending, serving
from tests.support.waiting import eventually

TIMEOUT = 10  # seconds


class Standing(Script):
    """Answers no GetRun, and sends one message of each stream."""

    def __init__(self) -> None:
        super().__init__(self._stand, self._stand)
        self.asking = asyncio.Event()

    async def _stand(self, request: Any, context: Context) -> None:
        await context.write(
            change(SNAPSHOT, 1) if isinstance(request, pb.WatchRunRequest) else pb.WatchRunsResponse(position="a")
        )
        self.asking.set()
        await asyncio.Event().wait()

    async def GetRun(self, request: pb.GetRunRequest, context: Context) -> pb.GetRunResponse:  # type: ignore[override]
        self.asking.set()
        await asyncio.Event().wait()
        raise AssertionError


async def get(client: RunsClient) -> None:
    await client.get("p", "r")


async def watch(client: RunsClient) -> None:
    async for _ in client.watch("p", "r"):
        pass


async def watch_all(client: RunsClient) -> None:
    async for _ in client.watch_all("p"):
        pass


@pytest.mark.parametrize("call", [get, watch, watch_all])
async def test_calls_under_way_and_later_ones_say_that_it_is_closed(call: Any) -> None:
    service = Standing()
    async with serving(service) as target, asyncio.timeout(TIMEOUT):
        client = RunsClient(target)
        calling = asyncio.create_task(call(client))
        await service.asking.wait()
        await client.close()
        with pytest.raises(RuntimeError, match="the client is closed"):
            await calling
        with pytest.raises(RuntimeError, match="the client is closed"):
            await call(client)


@pytest.mark.parametrize("call", [watch, watch_all])
async def test_a_watch_that_waits_before_it_resumes_ends_at_once(call: Any) -> None:
    service = Script(sending(then=grpc.StatusCode.UNAVAILABLE, reason="SHUTTING_DOWN", retry_after=2 * TIMEOUT))
    async with serving(service) as target, asyncio.timeout(TIMEOUT):
        client = RunsClient(target)
        watching = asyncio.create_task(call(client))
        await eventually(lambda: service.asked or service.watched_all)
        await get(client)  # over the same connection: the watch has its refusal when this has its answer
        await client.close()
        with pytest.raises(RuntimeError, match="the client is closed"):
            await watching


@pytest.mark.parametrize("call", [get, watch])
async def test_a_caller_that_is_cancelled_is_cancelled(call: Any) -> None:
    service = Standing()
    async with serving(service) as target, RunsClient(target) as client:
        calling = asyncio.create_task(call(client))
        await service.asking.wait()
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await call(client)
