"""What callers can make a service do, with and without a token: real processes, real HTTP/2."""

import asyncio

import grpc
import pytest
from playbooks.executor.v1.catalog_service_pb2 import GetProjectRequest, PutProductsRequest
from playbooks.executor.v1.catalog_service_pb2_grpc import CatalogServiceStub
from playbooks.runs.v1.run_pb2 import PlaybookRules, RunMeta
from playbooks.runs.v1.runs_service_pb2 import ListRunsRequest
from playbooks.runs.v1.runs_service_pb2_grpc import RunsServiceStub

from tests.support.forking import Forks
from tests.support.http2 import HEADERS, SETTINGS, Connection
from tests.support.metrics import scrape
from tests.support.runs import request
from tests.support.service import ServiceProcess, metadata, refused
from tests.support.tokens import hs256
from tests.support.waiting import eventually

CREATE, PUT = "/playbooks.runs.v1.RunsService/CreateRun", "/playbooks.executor.v1.CatalogService/PutProducts"
DEADLINE = 20  # seconds of a call

INVALID, DENIED = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.PERMISSION_DENIED


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
