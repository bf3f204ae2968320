"""What a project may ask for, what a caller may watch, and how old a connection becomes: a real runs-service."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count
from typing import Any

import grpc
import psycopg
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from playbooks.executor.v1.job_pb2 import RunEventBatch
from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2 import ListRunsRequest, WatchRunRequest, WatchRunsRequest
from playbooks.runs.v1.runs_service_pb2_grpc import RunsServiceStub

from devstack.valkey import Valkey
from executor_service.domain.catalog import Product
from executor_service.playbooks.quota import Plan
from runs_client.client import RunsClient
from runs_service.delivery.event_applier import EVENTS_QUEUE
from servicekit.broker import MessageSigner, Publisher
from servicekit.errors import Reason, ServiceError
from servicekit.telemetry.metrics import Metrics
from tests.conftest import new_database
from tests.support.executor import Bench
from tests.support.forking import Forks
from tests.support.http2 import Connection
from tests.support.prepared import RUNS_TEMPLATE
from tests.support.runs import event, request
from tests.support.service import ServiceProcess, metadata, token
from tests.support.shop import Refusal, refusal
from tests.support.tokens import SECRET
from tests.support.waiting import eventually

DEADLINE = 20  # seconds of a call
QUEUED, RATE, WATCHES = 3, 2, 6
CALLS = 100
LOOKS = 50  # at whether that many are under way
AGE = 1.0  # seconds
LIMITS = {
    "RUNS_MAX_QUEUED": str(QUEUED),
    "RUNS_MAX_CREATES_PER_SECOND": str(RATE),
    "MAX_WATCHES": str(WATCHES),
    "MAX_WATCHES_PER_CALLER": "2",
    "MAX_CALLS_PER_CALLER": str(CALLS),
    "MAX_METADATA_BYTES": "8192",
    "MAX_CONNECTION_AGE_SECONDS": str(AGE),
    "MAX_CONNECTION_GRACE_SECONDS": "2",
}
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED

Counted = Callable[[str], Awaitable[float]]


@pytest.fixture(scope="module")
async def database_url(postgres_server: Any) -> AsyncIterator[str]:
    for url in new_database(postgres_server, template=RUNS_TEMPLATE):
        yield url


@pytest.fixture(scope="module")
async def service(
    runs_forks: Forks, database_url: str, valkey_server: Valkey, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ServiceProcess]:
    environment = {
        "RUNS_DATABASE_URL": database_url,
        "BROKER_URL": valkey_server.url,
        "BROKER_QUEUE_PREFIX": "limits",
        **LIMITS,
    }
    with ServiceProcess(runs_forks, "runs", tmp_path_factory.mktemp("runs") / "log", environment) as process:
        yield process


@pytest.fixture
async def stub(service: ServiceProcess) -> AsyncIterator[RunsServiceStub]:
    # A connection of its own: an older one may end with a call that gRPC itself refuses.
    options = (("grpc.use_local_subchannel_pool", 1),)
    async with grpc.aio.insecure_channel(service.target, options=options) as channel:
        yield RunsServiceStub(channel)


async def answer(call: Awaitable[Any]) -> str:
    """Return the reason of a refusal, which says when to try again if a limit is met, or "" for success."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        said = refusal(error)
        if said.code is not EXHAUSTED:
            return said.reason
        status = rpc_status.from_call(error)
        assert status
        assert any(detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in status.details)
        return said.reason
    return ""


async def test_a_project_is_refused_once_so_many_of_its_runs_wait(
    stub: RunsServiceStub, service: ServiceProcess, database_url: str
) -> None:
    keys = count()

    async def create() -> str:
        wanted = request(project_id="queue", idempotency_key=str(next(keys)))
        return await answer(stub.CreateRun(wanted, metadata=metadata("queue"), timeout=DEADLINE))

    assert [await create() for _ in range(QUEUED + 1)] == [""] * QUEUED + ["QUEUE_FULL"]
    assert await service.limits_reached("queued_runs") == 1
    with psycopg.connect(database_url, autocommit=True) as database:
        found = database.execute("SELECT count(*) FROM runs.runs WHERE project_id = 'queue'").fetchone()
        assert found == (QUEUED,), "what is refused is not stored"
        database.execute("UPDATE runs.runs SET status = 'RUNNING' WHERE project_id = 'queue'")

    async def accepted() -> bool:
        return await create() == ""

    await eventually(accepted)


async def test_a_project_that_creates_too_fast_is_refused_and_another_is_not(
    stub: RunsServiceStub, service: ServiceProcess
) -> None:
    keys = count()

    def create(project: str) -> Awaitable[str]:
        wanted = request(project_id=project, idempotency_key=str(next(keys)))
        return answer(stub.CreateRun(wanted, metadata=metadata(project), timeout=DEADLINE))

    before = await service.limits_reached("creates_per_second")
    found = Counter(await asyncio.gather(*(create("fast") for _ in range(40))))
    refused = found["CREATE_RATE_EXCEEDED"]
    assert 0 < refused <= 36, found  # four at once, and two more a second
    assert await service.limits_reached("creates_per_second") - before == refused
    assert await create("another") == ""


async def test_one_caller_cannot_take_all_watches_and_watches_leave_room_for_calls(
    service: ServiceProcess,
) -> None:
    async with grpc.aio.insecure_channel(service.target) as channel:
        stub = RunsServiceStub(channel)
        calls: list[Any] = []

        async def watch(user: str) -> Refusal | None:
            call = stub.WatchRuns(
                WatchRunsRequest(project_id="p"), metadata=metadata("p", "VIEWER", user), timeout=DEADLINE
            )
            calls.append(call)
            try:
                await call.read()
            except grpc.aio.AioRpcError as error:
                return refusal(error)
            return None

        try:
            assert [await watch("one") for _ in range(2)] == [None, None]
            refused = await watch("one")
            assert refused
            assert (refused.code, refused.reason) == (EXHAUSTED, "TOO_MANY_CALLS")
            assert refused.metadata == {"limit": "watches_per_caller"}
            for number in range(WATCHES - 2):
                assert await watch(f"other-{number}") is None
            refused = await watch("late")
            assert refused
            assert refused.metadata == {"limit": "watches"}
            wanted = request(idempotency_key="beside")
            assert await answer(stub.CreateRun(wanted, metadata=metadata(user="one"), timeout=DEADLINE)) == ""
        finally:
            for call in calls:
                call.cancel()
    assert await service.limits_reached("watches") == await service.limits_reached("watches_per_caller") == 1


async def test_one_caller_has_so_many_calls_in_flight(service: ServiceProcess, stub: RunsServiceStub) -> None:
    def page(user: str) -> Awaitable[str]:
        wanted = ListRunsRequest(project_id="p")
        return answer(stub.ListRuns(wanted, metadata=metadata(user=user), timeout=DEADLINE))

    async def refused() -> bool:
        # Calls that never get their request. Their connection is soon too old: a slow machine begins anew.
        with Connection(service.target) as connection:
            for _ in range(CALLS):
                _, opening = connection.call("/playbooks.runs.v1.RunsService/CreateRun", *metadata(user="many"))
                connection.send(opening)
            for _ in range(LOOKS):
                if await page("many") == "TOO_MANY_CALLS":
                    assert await page("another") == ""
                    return True
        return False

    await eventually(refused)
    assert await service.limits_reached("calls_per_caller") > 0


async def test_larger_metadata_are_refused(stub: RunsServiceStub) -> None:
    def page(size: int) -> Awaitable[Any]:
        many = (*metadata(), ("much", "x" * size))
        return stub.ListRuns(ListRunsRequest(project_id="p"), metadata=many, timeout=DEADLINE)

    await page(7_000)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await page(9_000)
    assert caught.value.code() is EXHAUSTED


async def code_of(stream: Any, react: Callable[[], Awaitable[None]]) -> grpc.StatusCode:
    """Read a stream to its end, with a reaction to each message; return how it ended."""
    try:
        async for _ in stream:
            await react()
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def test_a_connection_that_is_too_old_ends_and_its_watchers_miss_nothing(
    service: ServiceProcess, valkey_server: Valkey
) -> None:
    async with RunsClient(service.target, token=token("old")) as client:
        run = (await client.create("old", "missing_seo_title", Run.PREVIEW_GENERATE)).run
        seen: list[int] = []
        watches = asyncio.Event()

        async def watch() -> None:
            async for message in client.watch("old", run.id):
                if not seen or message.run.sequence != seen[-1]:
                    seen.append(message.run.sequence)
                watches.set()

        watching = asyncio.create_task(watch())
        await asyncio.wait_for(watches.wait(), DEADLINE)
        async with grpc.aio.insecure_channel(service.target) as channel:
            raw = RunsServiceStub(channel).WatchRun(
                WatchRunRequest(project_id="old", run_id=run.id), metadata=metadata("old", user="raw"), timeout=DEADLINE
            )
            publisher = Publisher(valkey_server.url, f"limits.{EVENTS_QUEUE}", Metrics(), MessageSigner([SECRET]))
            steps = count(1)

            async def publish(status: Run.Status.ValueType) -> None:
                step = next(steps)
                change = event(run.id, step, status, completed=min(step, 100), project_id="old")
                await publisher.publish(RunEventBatch(events=[change]).SerializeToString())

            try:
                assert await code_of(raw, lambda: publish(Run.RUNNING)) is grpc.StatusCode.UNAVAILABLE
                await publish(Run.RUNNING)
                await publish(Run.SUCCEEDED)
                await asyncio.wait_for(watching, DEADLINE)
            finally:
                raw.cancel()
                watching.cancel()
                await publisher.close()
        final = await client.get("old", run.id)
    assert seen == list(range(1, final.sequence + 1))
    assert final.status == Run.SUCCEEDED


async def test_a_project_has_so_many_products_and_those_can_be_replaced(executor_database: str) -> None:
    def products(*numbers: int) -> list[Product]:
        return [Product(f"{number:05}", "", "Thing", "Good.", "", "") for number in numbers]

    async with Bench(executor_database, max_products=10) as bench:
        for project in ("p", "q"):
            await bench.catalog.put_project(project, plan=Plan.FREE, ai_daily_limit=None, by_platform=True)
        await bench.catalog.put_products("p", products(*range(8)))
        for wanted in (products(8, 9, 10), products(0, 1, 8, 9, 10)):
            with pytest.raises(ServiceError) as refused:
                await bench.catalog.put_products("p", wanted)
            assert refused.value.reason is Reason.PRODUCT_LIMIT_REACHED
        number = bench.metrics.registry.get_sample_value("limits_reached_total", {"limit": "products"})
        assert number == 2
        assert (await bench.catalog.put_products("p", products(*range(7)))).updated == 7
        assert (await bench.catalog.put_products("q", products(*range(10)))).created == 10
        await bench.catalog.put_products("p", products(8, 9))
        assert (await bench.catalog.put_products("p", products(*range(10)))).updated == 10
