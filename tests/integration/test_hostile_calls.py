"""What callers can make a service hold or do, with and without a token: real processes, real HTTP/2."""

import asyncio
from typing import Any

import grpc
import pytest
from playbooks.executor.v1.catalog_service_pb2 import GetProjectRequest, PutProductsRequest
from playbooks.executor.v1.catalog_service_pb2_grpc import CatalogServiceStub
from playbooks.runs.v1.run_pb2 import PlaybookRules, RunMeta
from playbooks.runs.v1.runs_service_pb2 import ListRunsRequest
from playbooks.runs.v1.runs_service_pb2_grpc import RunsServiceStub

from tests.support.attacking import attacking
from tests.support.forking import Forks
from tests.support.http2 import HEADERS, SETTINGS, Connection
from tests.support.metrics import scrape
from tests.support.runs import request
from tests.support.service import Growth, ServiceProcess, memory_of, metadata, token
from tests.support.shop import Refusal, refusal
from tests.support.tokens import hs256
from tests.support.waiting import eventually

MB = 1_000_000
BOUND = 150 * MB  # that an attack may raise a process's memory by
LARGEST = 1024 * 1024  # bytes; executor_service's MAX_REQUEST_BYTES
CREATE, PUT = "/playbooks.runs.v1.RunsService/CreateRun", "/playbooks.executor.v1.CatalogService/PutProducts"
DEADLINE = 20  # seconds of a call

INVALID, DENIED = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.PERMISSION_DENIED


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


async def refused(call: Any) -> Refusal:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return refusal(caught.value)


# F1: memory


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


async def test_connections_and_calls_under_way_are_bounded(
    executor_forks: Forks, executor_database: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    environment = {"EXECUTOR_DATABASE_URL": executor_database, "MAX_CONNECTIONS": "20", "MAX_CALLS": "8"}
    with ServiceProcess(
        executor_forks, "executor", tmp_path_factory.mktemp("executor") / "log", environment
    ) as service:
        connections = [Connection(service.target) for _ in range(40)]

        async def greeted() -> int:
            for connection in connections:
                await asyncio.to_thread(connection.listen, 0.05)
            return sum(bool(connection.seen[SETTINGS]) for connection in connections)

        async def most_are_greeted() -> bool:
            return await greeted() > 10

        await eventually(most_are_greeted)
        assert await greeted() <= 20
        for connection in connections:
            connection.close()

        async with grpc.aio.insecure_channel(service.target) as channel:
            await asyncio.wait_for(
                channel.channel_ready(), DEADLINE
            )  # once the service has noticed that those are gone
            with Connection(service.target) as connection:
                for _ in range(4):
                    _, opening = connection.call(PUT, *metadata())
                    connection.send(opening)

                async def under_way() -> bool:
                    found = await scrape(service.metrics_port)
                    return found.value("grpc_server_calls_in_flight", kind="authenticated") == 4

                await eventually(under_way)
                get = CatalogServiceStub(channel).GetProject(
                    GetProjectRequest(project_id="p"), metadata=metadata(), timeout=DEADLINE
                )
                error = await refused(get)
        assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_CALLS")
        assert error.metadata == {"limit": "calls_per_caller"}
        assert await service.limits_reached("calls_per_caller") == 1


# F2: time


async def test_a_project_of_others_is_denied_before_the_request_is_looked_at(runs_process: ServiceProcess) -> None:
    hostile = request(project_id="another", meta=RunMeta(rules=PlaybookRules(forbidden_phrases=[""] * 60_000)))
    async with grpc.aio.insecure_channel(runs_process.target) as channel:
        call = RunsServiceStub(channel).CreateRun(hostile, metadata=metadata("p"), timeout=DEADLINE)
        error = await refused(call)
    assert (error.code, error.reason) == (DENIED, "PROJECT_ACCESS_DENIED")


async def test_of_many_violations_the_first_twenty_are_listed(executor_process: ServiceProcess) -> None:
    products = PutProductsRequest(project_id="p")
    for _ in range(1_000):
        products.products.add()
    async with grpc.aio.insecure_channel(executor_process.target) as channel:
        error = await refused(CatalogServiceStub(channel).PutProducts(products, metadata=metadata(), timeout=DEADLINE))
        assert (error.code, error.reason, len(error.fields)) == (INVALID, "VALIDATION_FAILED", 20)
        assert "and more" in error.message
        for _ in range(9_000):
            products.products.add()
        error = await refused(CatalogServiceStub(channel).PutProducts(products, metadata=metadata(), timeout=DEADLINE))
        assert error.fields == {"products": "must have at most 1,000 items"}
        others = metadata("another", "VIEWER")
        error = await refused(CatalogServiceStub(channel).PutProducts(products, metadata=others, timeout=DEADLINE))
        assert (error.code, error.reason) == (DENIED, "PROJECT_ACCESS_DENIED")


async def test_a_refusal_that_quotes_a_huge_request_arrives(runs_process: ServiceProcess) -> None:
    async with grpc.aio.insecure_channel(runs_process.target) as channel:
        huge = ListRunsRequest(project_id="x" * 100_000)
        error = await refused(RunsServiceStub(channel).ListRuns(huge, metadata=metadata(), timeout=DEADLINE))
    assert (error.code, error.reason) == (DENIED, "PROJECT_ACCESS_DENIED")
    assert len(error.message) < 2_000


# F4: streams that are opened and reset


async def test_streams_that_are_reset_at_once_cost_others_no_call(runs_process: ServiceProcess) -> None:
    async with (
        GoodCaller(runs_process.target) as good,
        attacking("reset", runs_process.target, CREATE, 3, 25_000) as attack,
    ):
        ended = asyncio.create_task(attack.ended())
        await asyncio.gather(*(good.call_beside(ended) for _ in range(8)))
    assert good.failed == []
    assert good.calls > 20


async def test_headers_that_are_no_text_leave_no_trace(runs_process: ServiceProcess) -> None:
    fields = [("authorization", "Bearer \xff\xfe"), ("x-request-id", "\xff"), ("other", "\x80")]
    with Connection(runs_process.target) as connection:
        for field in fields:
            _, opening = connection.call(CREATE, field)
            connection.send(opening)

        async def answered() -> bool:
            await asyncio.to_thread(connection.listen, 0.05)
            return connection.seen[HEADERS] == len(fields)

        await eventually(answered)
    assert runs_process.tracebacks == 0


async def test_of_two_tokens_none_counts_and_a_long_one_does(runs_process: ServiceProcess) -> None:
    async with grpc.aio.insecure_channel(runs_process.target) as channel:
        stub, page = RunsServiceStub(channel), ListRunsRequest(project_id="p")
        two = (*metadata("another"), *metadata("p"))
        error = await refused(stub.ListRuns(page, metadata=two, timeout=DEADLINE))
        assert (error.code, error.reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")
        many = hs256(projects={f"shop-{n}-of-a-large-group": "OWNER" for n in range(500)} | {"p": "OWNER"})
        assert 20_000 < len(many) < 32_000
        await stub.ListRuns(page, metadata=(("authorization", f"Bearer {many}"),), timeout=DEADLINE)
