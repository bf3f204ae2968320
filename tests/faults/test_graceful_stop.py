"""A service gets a signal to stop: no call is cut off, nothing is lost, and it ends in time with exit code 0."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from playbooks.executor.v1 import catalog_service_pb2 as catalog
from playbooks.executor.v1.catalog_service_pb2_grpc import CatalogServiceStub
from playbooks.runs.v1 import runs_service_pb2 as pb
from playbooks.runs.v1.run_pb2 import Run, RunMeta
from playbooks.runs.v1.runs_service_pb2_grpc import RunsServiceStub

from devstack.services import Service
from devstack.stack import Stack, StackOptions
from runs_client.client import RunsClient
from runs_service.app import GRACE as RUNS_GRACE
from tests.faults.sizes import FULL, size
from tests.support.audit import audit
from tests.support.openai_protocol import Behaviour
from tests.support.openai_server import OpenAIServer
from tests.support.shop import TITLES, Channels, Shop, log_lines
from tests.support.stopping import (
    assert_shutting_down,
    ended,
    not_serving,
    restarted,
    retry_seconds,
    stopped,
    tell_to_stop,
)
from tests.support.waiting import eventually

GRACE = 5.0  # seconds; what executors give running work by default
NO_GRACE = 0.3
LEASE = 30.0  # seconds; longer than anything here may take
CALLERS = 64
PATIENT_AI = {"AI_TIMEOUT_SECONDS": "60"}  # no request is given up for being slow
# A connection of its own, and nothing that is sent again: each call tells what became of it.
BARE = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))


NewShop = Callable[[], Shop]


@asynccontextmanager
async def shops(folder: Path, env: dict[str, str], **options: Any) -> AsyncIterator[NewShop]:
    with Stack(StackOptions(data_dir=folder, durable=False, env=env, **options)) as stack:
        channels = Channels.to(stack)
        yield lambda: Shop(stack, channels)
        await channels.close()


@pytest.fixture(scope="module")
async def patient_stack(stack_folder: Callable[[], Path], stack_env: dict[str, str]) -> AsyncIterator[NewShop]:
    """Two runs_service and one executor_service, with the usual grace time."""
    env = stack_env | PATIENT_AI | {"AI_BATCH_SIZE": "1", "AI_CONCURRENCY": "1"}
    async with shops(stack_folder(), env, runs_replicas=2) as new_shop:
        yield new_shop


@pytest.fixture(scope="module")
async def hasty_stack(stack_folder: Callable[[], Path], stack_env: dict[str, str]) -> AsyncIterator[NewShop]:
    """Two executor_service that give running work no time to end."""
    env = stack_env | PATIENT_AI | {"EXECUTOR_GRACE_SECONDS": str(NO_GRACE), "EXECUTOR_LEASE_SECONDS": str(LEASE)}
    async with shops(stack_folder(), env, executor_replicas=2) as new_shop:
        yield new_shop


@pytest.fixture
async def shop(patient_stack: NewShop) -> Shop:
    return await opened(patient_stack())


@pytest.fixture
async def hasty_shop(hasty_stack: NewShop) -> Shop:
    return await opened(hasty_stack())


async def opened(shop: Shop) -> Shop:
    """Return the shop once its channels have found everybody again."""
    await eventually(lambda: attempt(shop.open()))
    for number in range(len(shop.stack.runs)):
        await eventually(lambda: attempt(shop.runs(number).ListRuns(listing_of(shop), **shop.auth())))  # noqa: B023
    return shop


def listing_of(shop: Shop) -> pb.ListRunsRequest:
    return pb.ListRunsRequest(project_id=shop.project)


def replica(shop: Shop, kind: str) -> Service:
    return shop.stack.runs[0] if kind == "runs" else shop.stack.executors[0]


@contextmanager
def locked(stack: Stack, table: str) -> Iterator[None]:
    """Let nobody read or write a table within the block, so that calls that need it are under way."""
    with psycopg.connect(stack.postgres.url(database="playbook_runs")) as database:
        database.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        yield
        database.rollback()


def waiting_for(stack: Stack, table: str) -> int:
    """Return how many statements wait for a locked table."""
    with psycopg.connect(stack.postgres.url(database="playbook_runs")) as database:
        query = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = CAST(%s AS regclass)"
        row = database.execute(query, [table]).fetchone()
        return int(row[0]) if row else 0


def read(shop: Shop, service: Service, channel: grpc.aio.Channel) -> grpc.aio.UnaryUnaryCall[Any, Any]:
    """Call a method that needs a table."""
    if service.kind == "runs":
        return RunsServiceStub(channel).ListRuns(listing_of(shop), **shop.auth())
    products = catalog.ListProductsRequest(project_id=shop.project)
    return CatalogServiceStub(channel).ListProducts(products, **shop.auth())


TABLES = {"runs": "runs.runs", "executor": "executor.products"}
NAMES = {"runs": "playbooks.runs.v1.RunsService", "executor": "playbooks.executor.v1.ExecutorService"}


@pytest.mark.parametrize("kind", ["runs", "executor"])
async def test_new_calls_are_refused_while_those_under_way_are_answered(kind: str, shop: Shop) -> None:
    service = replica(shop, kind)
    table = TABLES[kind]
    async with grpc.aio.insecure_channel(service.target, options=BARE) as channel:
        with locked(shop.stack, table):
            under_way = read(shop, service, channel)
            await eventually(lambda: waiting_for(shop.stack, table))
            tell_to_stop(service)
            await eventually(lambda: not_serving(channel, NAMES[kind]))
            assert await not_serving(channel, "")
            for _ in range(5):
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await read(shop, service, channel)
                assert_shutting_down(refused.value)
        await under_way
        await ended(service, grace=0)
    await restarted(service)


async def test_a_call_that_outlasts_the_grace_time_gets_a_retry_delay(hasty_shop: Shop) -> None:
    """And not that it was cancelled: it was not, by anybody who would know."""
    shop, service = hasty_shop, hasty_shop.stack.executors[0]
    async with grpc.aio.insecure_channel(service.target, options=BARE) as channel:
        with locked(shop.stack, TABLES["executor"]):
            calls = [read(shop, service, channel) for _ in range(5)]
            await eventually(lambda: waiting_for(shop.stack, TABLES["executor"]) == len(calls))
            calls.pop().cancel()  # one caller does not wait for that
            tell_to_stop(service)
            for call in calls:
                with pytest.raises(grpc.aio.AioRpcError) as outlasted:
                    await call
                assert_shutting_down(outlasted.value)
            await ended(service, grace=NO_GRACE)
    await restarted(service)


@pytest.mark.parametrize("kind", ["runs", "executor"])
async def test_under_load_no_call_fails_but_with_unavailable(kind: str, shop: Shop) -> None:
    """Also those that arrive in the very moment in which the server goes."""
    service = replica(shop, kind)
    codes: Counter[str] = Counter()
    delays: set[float | None] = set()
    created: list[str] = []

    async def call(channel: grpc.aio.Channel, number: int) -> None:
        if kind == "executor":
            await read(shop, service, channel)
            return
        request = pb.CreateRunRequest(
            project_id=shop.project, playbook_id=TITLES, run_type=Run.PREVIEW_GENERATE, idempotency_key=str(number)
        )
        answer = await RunsServiceStub(channel).CreateRun(request, **shop.auth())
        created.append(answer.run.id)

    async def caller(channel: grpc.aio.Channel, place: int) -> None:
        for number in range(100_000):
            try:
                await call(channel, number * CALLERS + place)
                codes["OK"] += 1
            except grpc.aio.AioRpcError as error:
                codes[error.code().name] += 1
                delays.add(retry_seconds(error))
                if "failed to connect" in (error.details() or ""):
                    return
                await asyncio.sleep(0.001)

    for _ in range(size(10, 2)):
        codes.clear()
        async with grpc.aio.insecure_channel(service.target, options=BARE) as channel:
            callers = [asyncio.create_task(caller(channel, place)) for place in range(CALLERS)]
            await eventually(lambda: codes["OK"] > 2 * CALLERS)
            seconds = await stopped(service, grace=0)
            await asyncio.gather(*callers)
        print(f"{kind}: {seconds:.2f} s, {dict(codes)}")
        assert set(codes) == {"OK", "UNAVAILABLE"}, codes
        assert delays <= {1.0, None}  # None: the connection ended
        await restarted(service)
    for run_id in created:
        assert (await shop.get(run_id, replica=1)).id == run_id
    await audit(shop.stack)


async def test_watchers_are_ended_with_a_retry_delay_and_resume_on_another_replica(
    shop: Shop, openai: OpenAIServer
) -> None:
    await shop.stock(20)
    openai.behave(Behaviour(delay_seconds=0.25))
    run = (await shop.create(Run.PREVIEW_GENERATE, meta=RunMeta(sample_size=20))).run
    first, second = shop.stack.runs
    seen: list[list[int]] = []

    async def watch() -> None:
        changes: list[int] = []
        seen.append(changes)
        async with (
            RunsClient(either_of(shop), token=shop.stack.token(shop.project, "VIEWER")) as client,
            aclosing(client.watch(shop.project, run.id, after_sequence=0)) as responses,
        ):
            async for response in responses:
                changes += [response.run.sequence] if response.kind == pb.WatchRunResponse.UPDATED else []

    resuming = [asyncio.create_task(watch()) for _ in range(10)]
    plain = asyncio.create_task(shop.watch(run.id))
    await eventually(lambda: len(seen) == len(resuming) and all(len(changes) > 2 for changes in seen))

    tell_to_stop(first)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await plain
    assert_shutting_down(caught.value)
    await ended(first, grace=0)
    await restarted(first)
    await stopped(second, grace=0)

    await asyncio.gather(*resuming)
    await restarted(second)
    last = (await shop.get(run.id)).sequence
    assert all(changes == list(range(1, last + 1)) for changes in seen)
    await audit(shop.stack)


def either_of(shop: Shop) -> str:
    return f"ipv4:{','.join(service.target for service in shop.stack.runs)}"


async def test_work_that_ends_within_the_grace_time_is_finished(shop: Shop, openai: OpenAIServer) -> None:
    await shop.stock(1)
    openai.behave(Behaviour(delay_seconds=1.0))
    run = (await shop.create(Run.PREVIEW_GENERATE)).run
    await openai.wait_for(lambda stats: stats.in_flight == 1, timeout_seconds=10)

    await stopped(shop.stack.executors[0], grace=GRACE)
    run = await shop.ended(run)
    await restarted(shop.stack.executors[0])

    assert (run.status, run.attempt) == (Run.SUCCEEDED, 1)
    assert openai.stats().requests == 1
    await audit(shop.stack)


async def test_work_beyond_the_grace_time_is_handed_back_at_once_and_finished_elsewhere(
    hasty_shop: Shop, openai: OpenAIServer
) -> None:
    shop = hasty_shop
    await shop.stock(3)
    openai.behave(Behaviour(delay_seconds=30, times=1))
    run = (await shop.create(Run.PREVIEW_GENERATE)).run
    await openai.wait_for(lambda stats: stats.in_flight == 1, timeout_seconds=10)
    stopping = worker(shop, run)

    started = time.monotonic()
    tell_to_stop(stopping)
    run = await shop.ended(run)
    took = time.monotonic() - started
    await ended(stopping, grace=NO_GRACE)
    await restarted(stopping)

    assert took < LEASE / 2
    assert (run.status, run.attempt) == (Run.SUCCEEDED, 2)
    assert openai.stats().aborted == 1
    await audit(shop.stack)


def worker(shop: Shop, run: Run) -> Service:
    """Return the executor that began to work on a run."""
    (found,) = [one for one in shop.stack.executors if log_lines(one.log, f"Processing run {run.id}")]
    return found


async def test_inline_callers_are_answered_and_their_runs_go_on(
    start_stack: Callable[..., Any], openai: OpenAIServer
) -> None:
    """CreateRun waits for an inline run, longer than a stop may take."""
    shop: Shop = await start_stack(broker=False, runs_replicas=2, env=PATIENT_AI)
    await shop.stock(3)
    openai.behave(Behaviour(delay_seconds=3))
    creating = asyncio.create_task(shop.create(Run.PREVIEW_GENERATE))
    await openai.wait_for(lambda stats: stats.in_flight == 1, timeout_seconds=10)

    await stopped(shop.stack.runs[0], grace=0)
    answer = await creating

    assert answer.created
    assert answer.run.status == Run.RUNNING
    run = (await shop.watch(answer.run.id, replica=1))[-1].run
    assert (run.status, run.attempt) == (Run.SUCCEEDED, 1)
    await audit(shop.stack)


async def test_callers_of_synchronous_methods_retry_and_get_their_answer(shop: Shop, openai: OpenAIServer) -> None:
    await shop.stock(3)
    openai.behave(Behaviour(delay_seconds=0.7))
    async with RunsClient(either_of(shop), token=shop.stack.token(shop.project, "OWNER")) as client:
        previews = [asyncio.create_task(client.preview(shop.project, TITLES)) for _ in range(5)]
        await openai.wait_for(lambda stats: stats.in_flight == 1, timeout_seconds=10)
        await stopped(shop.stack.runs[0], grace=0)
        answers = await asyncio.gather(*previews)
    assert {answer.run.status for answer in answers} == {Run.SUCCEEDED}
    assert len({answer.run.id for answer in answers}) == 1
    assert all(len(answer.draft.items) == 3 for answer in answers)
    await restarted(shop.stack.runs[0])
    await audit(shop.stack)


@asynccontextmanager
async def frozen(process: Any) -> AsyncIterator[None]:
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


@asynccontextmanager
async def killed(process: Any) -> AsyncIterator[None]:
    process.kill()
    try:
        yield
    finally:
        process.start()
        await asyncio.to_thread(process.wait_ready)


@pytest.mark.parametrize(
    ("store", "away"),
    [("postgres", frozen), ("valkey", killed), *([("postgres", killed), ("valkey", frozen)] if FULL else [])],
    ids=lambda value: getattr(value, "__name__", value),
)
async def test_it_ends_in_time_while_a_store_is_away(
    store: str, away: Any, start_stack: Callable[..., Any], openai: OpenAIServer
) -> None:
    """With a run under way, calls that wait and a watcher."""
    grace = 1.0
    env = PATIENT_AI | {"EXECUTOR_GRACE_SECONDS": str(grace), "EXECUTOR_LEASE_SECONDS": "3"}
    shop: Shop = await start_stack(executor_env=env)
    await shop.stock(3)
    openai.behave(Behaviour(delay_seconds=20, times=1))
    run = (await shop.create(Run.PREVIEW_GENERATE)).run
    await openai.wait_for(lambda stats: stats.in_flight == 1, timeout_seconds=10)
    watching = asyncio.create_task(shop.watch(run.id))
    (runs,), (executor,) = shop.stack.runs, shop.stack.executors

    async with away(getattr(shop.stack, store)):
        reading = [asyncio.create_task(attempt(shop.get(run.id))) for _ in range(5)]
        took = await asyncio.gather(stopped(runs, grace=RUNS_GRACE), stopped(executor, grace=grace))
        print(f"{store} {away.__name__}: runs_service {took[0]:.1f} s, executor_service {took[1]:.1f} s")
        await asyncio.gather(*reading)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await watching
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    for service in (runs, executor):
        await restarted(service)
    await eventually(lambda: attempt(shop.get(run.id)))
    run = await shop.ended(run)
    assert run.status == Run.SUCCEEDED
    # A killed broker loses what it got within its last second: the job and its first event may be in hand still.
    await audit(shop.stack, unacknowledged=2 if (store, away) == ("valkey", killed) else 0)


async def attempt(call: Any) -> bool:
    """Tell whether a call succeeded; it may fail with UNAVAILABLE only."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
        return False
    return True
