"""What callers can make a service hold or do, with and without a token: real processes, real HTTP/2."""

import asyncio
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from playbooks.executor.v1.catalog_service_pb2 import GetProjectRequest, PutProductsRequest
from playbooks.executor.v1.catalog_service_pb2_grpc import CatalogServiceStub
from playbooks.runs.v1.run_pb2 import PlaybookRules, RunMeta
from playbooks.runs.v1.runs_service_pb2 import ListRunsRequest
from playbooks.runs.v1.runs_service_pb2_grpc import RunsServiceStub

from tests.conftest import new_database
from tests.support.attacking import attacking
from tests.support.forking import Forks
from tests.support.http2 import HEADERS, SETTINGS, Connection
from tests.support.prepared import RUNS_TEMPLATE
from tests.support.runs import request
from tests.support.service import Growth, ServiceProcess, memory_of, metadata, token
from tests.support.shop import Refusal, refusal
from tests.support.tokens import hs256
from tests.support.waiting import eventually

MB = 1_000_000
BOUND = 150 * MB  # that an attack may raise a process's memory by
LARGEST = 1024 * 1024  # bytes; executor_service's MAX_REQUEST_BYTES
CREATE, PUT = "/playbooks.runs.v1.RunsService/CreateRun", "/playbooks.executor.v1.CatalogService/PutProducts"
REFLECTION = [f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo" for version in ("v1", "v1alpha")]
DEADLINE = 20  # seconds of a call

INVALID, DENIED = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.PERMISSION_DENIED


@pytest.fixture(scope="module")
def runs(runs_forks: Forks, postgres_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    for url in new_database(postgres_server, template=RUNS_TEMPLATE):
        log = tmp_path_factory.mktemp("runs") / "log"
        with ServiceProcess(runs_forks, "runs", log, {"RUNS_DATABASE_URL": url}) as service:
            yield service


@pytest.fixture(scope="module")
def executor(
    executor_forks: Forks, executor_database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceProcess]:
    environment = {"EXECUTOR_DATABASE_URL": executor_database_url, "MAX_RECEIVE_SECONDS": "5"}
    with ServiceProcess(
        executor_forks, "executor", tmp_path_factory.mktemp("executor") / "log", environment
    ) as service:
        yield service


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


async def test_bombs_without_a_token_are_never_unpacked(runs: ServiceProcess) -> None:
    """To unpack them takes several seconds of a core, and to refuse them a fraction of one."""
    async with GoodCaller(runs.target) as good:
        before = runs.cpu_seconds
        with memory_of(runs) as growth:
            async with attacking("bombs", runs.target, CREATE, 400, 15 * MB) as attack:
                await attack.says("sent")
                await good.call_beside(asyncio.create_task(attack.ended()), growth)
        assert growth.most < BOUND
        assert runs.cpu_seconds - before < 3.0
        assert good.calls > 10
        assert not good.failed


async def test_bombs_with_a_token_are_unpacked_up_to_the_limit_and_no_further(executor: ServiceProcess) -> None:
    with memory_of(executor) as growth:
        async with attacking("bombs", executor.target, PUT, 60, 100 * MB, token("p", user="bomber")) as attack:
            await attack.says("sent")
            growth.sample()
            assert (await attack.ended())["answered"] >= 60
    assert growth.most < BOUND
    assert executor.tracebacks == 0


@pytest.mark.parametrize("size", [16 * MB, 100_000])
async def test_requests_of_strangers_are_not_received(runs: ServiceProcess, size: int) -> None:
    with memory_of(runs) as growth:
        async with attacking("unfinished", runs.target, CREATE, 300, size) as attack:
            await attack.says("sent")
            growth.sample()
            ended = await attack.ended()
    assert growth.most < BOUND
    assert ended["answered"] == 300, "each stream ends with a status, and holds nothing after it"


async def test_what_unfinished_requests_hold_is_bounded_and_given_back_when_they_are_too_old(
    executor: ServiceProcess,
) -> None:
    """One caller gets half of the 64 places; the rest of its calls are refused, and others are served."""
    with memory_of(executor) as growth:
        async with attacking("unfinished", executor.target, PUT, 300, LARGEST, token("p", user="slow")) as attack:
            await attack.says("sent")
            growth.sample()
            async with grpc.aio.insecure_channel(executor.target) as channel:
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

                await eventually(served, timeout=20)  # MAX_RECEIVE_SECONDS later they are given up
            ended = await attack.ended()
    assert growth.most < BOUND
    assert ended["answered"] + ended["reset"] >= 300
    assert await executor.limits_reached("receiving") > 200
    assert await executor.limits_reached("receive_timeout") > 0


async def test_connections_and_calls_under_way_are_bounded(
    executor_forks: Forks, executor_database: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    environment = {"EXECUTOR_DATABASE_URL": executor_database, "MAX_CONNECTIONS": "20", "MAX_CALLS": "8"}
    with ServiceProcess(
        executor_forks, "executor", tmp_path_factory.mktemp("executor") / "log", environment
    ) as service:
        connections = [Connection(service.target) for _ in range(40)]
        for connection in connections:
            connection.listen(0.1)
        taken = [connection for connection in connections if connection.seen[SETTINGS]]
        for connection in connections:
            connection.close()
        assert 10 < len(taken) <= 20

        async with grpc.aio.insecure_channel(service.target) as channel:
            await asyncio.wait_for(
                channel.channel_ready(), DEADLINE
            )  # once the service has noticed that those are gone
            with Connection(service.target) as connection:
                for _ in range(4):
                    _, opening = connection.call(PUT, *metadata())
                    connection.send(opening)
                connection.listen(0.3)
                get = CatalogServiceStub(channel).GetProject(
                    GetProjectRequest(project_id="p"), metadata=metadata(), timeout=DEADLINE
                )
                error = await refused(get)
        assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_CALLS")
        assert error.metadata == {"limit": "calls_per_caller"}
        assert await service.limits_reached("calls_per_caller") == 1


# F2: time


async def test_a_project_of_others_is_denied_before_the_request_is_looked_at(runs: ServiceProcess) -> None:
    hostile = request(project_id="another", meta=RunMeta(rules=PlaybookRules(forbidden_phrases=[""] * 60_000)))
    async with grpc.aio.insecure_channel(runs.target) as channel:
        call = RunsServiceStub(channel).CreateRun(hostile, metadata=metadata("p"), timeout=DEADLINE)
        error = await refused(call)
    assert (error.code, error.reason) == (DENIED, "PROJECT_ACCESS_DENIED")


async def test_of_many_violations_the_first_twenty_are_listed(executor: ServiceProcess) -> None:
    products = PutProductsRequest(project_id="p")
    for _ in range(1_000):
        products.products.add()
    async with grpc.aio.insecure_channel(executor.target) as channel:
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


async def test_a_refusal_that_quotes_a_huge_request_arrives(runs: ServiceProcess) -> None:
    async with grpc.aio.insecure_channel(runs.target) as channel:
        huge = ListRunsRequest(project_id="x" * 100_000)
        error = await refused(RunsServiceStub(channel).ListRuns(huge, metadata=metadata(), timeout=DEADLINE))
    assert (error.code, error.reason) == (DENIED, "PROJECT_ACCESS_DENIED")
    assert len(error.message) < 2_000


# F4: streams that are opened and reset


async def test_streams_that_are_reset_at_once_cost_others_no_call(runs: ServiceProcess) -> None:
    async with GoodCaller(runs.target) as good, attacking("reset", runs.target, CREATE, 3, 25_000) as attack:
        ended = asyncio.create_task(attack.ended())
        await asyncio.gather(*(good.call_beside(ended) for _ in range(8)))
    assert good.failed == []
    assert good.calls > 20


async def test_headers_that_are_no_text_leave_no_trace(runs: ServiceProcess) -> None:
    fields = [("authorization", "Bearer \xff\xfe"), ("x-request-id", "\xff"), ("other", "\x80")]
    with Connection(runs.target) as connection:
        for field in fields:
            _, opening = connection.call(CREATE, field)
            connection.send(opening)

        async def answered() -> bool:
            await asyncio.to_thread(connection.listen, 0.05)
            return connection.seen[HEADERS] == len(fields)

        await eventually(answered)
    assert runs.tracebacks == 0


async def test_of_two_tokens_none_counts_and_a_long_one_does(runs: ServiceProcess) -> None:
    async with grpc.aio.insecure_channel(runs.target) as channel:
        stub, page = RunsServiceStub(channel), ListRunsRequest(project_id="p")
        two = (*metadata("another"), *metadata("p"))
        error = await refused(stub.ListRuns(page, metadata=two, timeout=DEADLINE))
        assert (error.code, error.reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")
        many = hs256(projects={f"shop-{n}-of-a-large-group": "OWNER" for n in range(500)} | {"p": "OWNER"})
        assert 20_000 < len(many) < 32_000
        await stub.ListRuns(page, metadata=(("authorization", f"Bearer {many}"),), timeout=DEADLINE)


# F9: garbage to the services that are open to everyone


GARBAGE = (b"\xff", b"\x0a\xff", b"\x00" * 50, b"\x0b" * 100, bytes(range(256)))


@pytest.mark.parametrize(
    "method",
    [
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        *REFLECTION,
    ],
)
async def test_garbage_to_open_services_is_bad_input(runs: ServiceProcess, method: str) -> None:
    async with grpc.aio.insecure_channel(runs.target) as channel:
        for body in GARBAGE:
            call = channel.stream_stream(method)(iter([body]), timeout=DEADLINE)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                async for _ in call:
                    pass
            error = refusal(caught.value)
            assert (error.code, error.reason) == (INVALID, "VALIDATION_FAILED"), body
    assert runs.tracebacks == 0


async def reflected(
    target: str, method: str, *requests: reflection_pb2.ServerReflectionRequest
) -> list[reflection_pb2.ServerReflectionResponse]:
    """Return what reflection answers to each request."""
    async with grpc.aio.insecure_channel(target) as channel:
        call = channel.stream_stream(
            method,
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        return [answer async for answer in call(iter(requests), timeout=DEADLINE)]


async def symbols(target: str, method: str, *names: str) -> list[bool]:
    """Return whether reflection finds each of these names."""
    asked = [reflection_pb2.ServerReflectionRequest(file_containing_symbol=name) for name in names]
    return [answer.HasField("file_descriptor_response") for answer in await reflected(target, method, *asked)]


@pytest.mark.parametrize("method", REFLECTION)
async def test_reflection_describes_what_the_port_serves_and_nothing_else(
    runs: ServiceProcess, executor: ServiceProcess, method: str
) -> None:
    served = ("playbooks.runs.v1.RunsService.CreateRun", "playbooks.runs.v1.Run", "google.rpc.ErrorInfo")
    internal = ("playbooks.executor.v1.RunJob", "playbooks.executor.v1.RunEventBatch", "x" * 1_000, "", "..")
    answers = await symbols(runs.target, method, *served, *internal)
    assert answers == [True] * len(served) + [False] * len(internal)
    assert await symbols(executor.target, method, "playbooks.executor.v1.CatalogService.PutProducts") == [True]


@pytest.mark.parametrize("method", REFLECTION)
async def test_reflection_lists_and_describes_both_versions_of_itself(runs: ServiceProcess, method: str) -> None:
    listing = reflection_pb2.ServerReflectionRequest(list_services="")
    itself = {name.split("/")[1] for name in REFLECTION}
    [listed] = await reflected(runs.target, method, listing)
    others = {"playbooks.runs.v1.RunsService", "grpc.health.v1.Health"}
    assert {service.name for service in listed.list_services_response.service} == itself | others
    for name in itself:
        described = reflection_pb2.ServerReflectionRequest(file_containing_symbol=f"{name}.ServerReflectionInfo")
        [answer] = await reflected(runs.target, method, described)
        [file] = answer.file_descriptor_response.file_descriptor_proto
        proto = FileDescriptorProto.FromString(file)
        assert f"{proto.package}.{proto.service[0].name}" == name
        assert proto.service[0].method[0].input_type == f".{proto.package}.ServerReflectionRequest"


async def test_reflection_can_be_turned_off(
    executor_forks: Forks, executor_database: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    environment = {"EXECUTOR_DATABASE_URL": executor_database, "REFLECTION": "false"}
    with ServiceProcess(
        executor_forks, "executor", tmp_path_factory.mktemp("executor") / "log", environment
    ) as service:
        for method in REFLECTION:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await symbols(service.target, method, "playbooks.executor.v1.CatalogService")
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        async with grpc.aio.insecure_channel(service.target) as channel:
            await health_pb2_grpc.HealthStub(channel).Check(reflection_pb2.ServerReflectionRequest(), timeout=DEADLINE)
