"""What callers can make a service hold, with and without a token: real processes, real HTTP/2, and many at once."""

import asyncio
from typing import Any

import grpc
import pytest
from playbooks.executor.v1.catalog_service_pb2 import GetProjectRequest
from playbooks.executor.v1.catalog_service_pb2_grpc import CatalogServiceStub
from playbooks.runs.v1.runs_service_pb2 import ListRunsRequest
from playbooks.runs.v1.runs_service_pb2_grpc import RunsServiceStub

from tests.support.attacking import attacking
from tests.support.service import Growth, ServiceProcess, memory_of, metadata, refused, token
from tests.support.waiting import eventually

MB = 1_000_000
BOUND = 150 * MB  # that an attack may raise a process's memory by
LARGEST = 1024 * 1024  # bytes; executor_service's MAX_REQUEST_BYTES
CREATE, PUT = "/playbooks.runs.v1.RunsService/CreateRun", "/playbooks.executor.v1.CatalogService/PutProducts"
DEADLINE = 20  # seconds of a call


class GoodCaller:
    """Makes small calls, one after the other."""

    def __init__(self, target: str, user: str = "good") -> None:
        self._channel = grpc.aio.insecure_channel(target, options=(("grpc.use_local_subchannel_pool", 1),))
        self._metadata = metadata("p", "VIEWER", user)
        self.failed: list[grpc.aio.AioRpcError] = []
        self.calls = 0

    async def __aenter__(self) -> "GoodCaller":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def call_beside(self, attack: "asyncio.Task[Any]", growth: Growth | None = None) -> None:
        """Call until the attack has ended."""
        stub = RunsServiceStub(self._channel)
        while not attack.done():
            try:
                await stub.ListRuns(ListRunsRequest(project_id="p"), metadata=self._metadata, timeout=DEADLINE)
            except grpc.aio.AioRpcError as error:
                self.failed.append(error)
            self.calls += 1
            if growth:
                growth.sample()
        attack.result()  # raises when it failed


async def test_bombs_without_a_token_are_never_unpacked(runs_process: ServiceProcess) -> None:
    """To unpack them takes several seconds of a core, and to refuse them a fraction of one."""
    async with GoodCaller(runs_process.target) as good:
        before = runs_process.cpu_seconds
        with memory_of(runs_process) as growth:
            async with attacking("bombs", runs_process.target, CREATE, 400, 15 * MB) as attack:
                await attack.says("sent")
                await good.call_beside(asyncio.create_task(attack.ended()), growth)
        assert growth.most < BOUND
        assert runs_process.cpu_seconds - before < 3.0
        assert good.calls > 10
        assert not good.failed


async def test_bombs_with_a_token_are_unpacked_up_to_the_limit_and_no_further(executor_process: ServiceProcess) -> None:
    with memory_of(executor_process) as growth:
        async with attacking("bombs", executor_process.target, PUT, 60, 100 * MB, token("p", user="bomber")) as attack:
            await attack.says("sent")
            growth.sample()
            assert (await attack.ended())["answered"] >= 60
    assert growth.most < BOUND
    assert executor_process.tracebacks == 0


@pytest.mark.parametrize("size", [16 * MB, 100_000])
async def test_requests_of_strangers_are_not_received(runs_process: ServiceProcess, size: int) -> None:
    with memory_of(runs_process) as growth:
        async with attacking("unfinished", runs_process.target, CREATE, 300, size) as attack:
            await attack.says("sent")
            growth.sample()
            ended = await attack.ended()
    assert growth.most < BOUND
    assert ended["answered"] == 300, "each stream ends with a status, and holds nothing after it"


async def test_what_unfinished_requests_hold_is_bounded_and_given_back_when_they_are_too_old(
    executor_process: ServiceProcess,
) -> None:
    """One caller gets half of the 64 places; the rest of its calls are refused, and others are served."""
    with memory_of(executor_process) as growth:
        async with attacking(
            "unfinished", executor_process.target, PUT, 300, LARGEST, token("p", user="slow")
        ) as attack:
            await attack.says("sent")
            growth.sample()
            async with grpc.aio.insecure_channel(executor_process.target) as channel:
                stub, project = CatalogServiceStub(channel), GetProjectRequest(project_id="none")
                error = await refused(
                    stub.GetProject(project, metadata=metadata("*", user="another"), timeout=DEADLINE)
                )
                assert error.reason == "PROJECT_NOT_FOUND", "another caller is served"
                error = await refused(stub.GetProject(project, metadata=metadata("*", user="slow"), timeout=DEADLINE))
                assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_CALLS")
                assert error.metadata["limit"] == "receiving"

                async def served() -> bool:
                    call = stub.GetProject(project, metadata=metadata("*", user="slow"), timeout=DEADLINE)
                    return (await refused(call)).reason == "PROJECT_NOT_FOUND"

                await eventually(served)  # MAX_RECEIVE_SECONDS later they are given up
            ended = await attack.ended()
    assert growth.most < BOUND
    assert ended["answered"] + ended["reset"] >= 300
    assert await executor_process.limits_reached("receiving") > 200
    assert await executor_process.limits_reached("receive_timeout") > 0


async def test_streams_that_are_reset_at_once_cost_others_no_call(runs_process: ServiceProcess) -> None:
    async with (
        GoodCaller(runs_process.target) as good,
        attacking("reset", runs_process.target, CREATE, 3, 25_000) as attack,
    ):
        ended = asyncio.create_task(attack.ended())
        await asyncio.gather(*(good.call_beside(ended) for _ in range(8)))
    assert good.failed == []
    assert good.calls > 20
