"""A service gets a signal to stop: no call is cut off, nothing is lost, and it ends in time with exit code 0."""

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import grpc
import pytest
from playbooks.runs.v1 import runs_service_pb2 as pb
from playbooks.runs.v1.run_pb2 import Run, RunMeta
from playbooks.runs.v1.runs_service_pb2_grpc import RunsServiceStub

from devstack.services import Service
from runs_client.client import RunsClient
from tests.faults.sizes import size
from tests.support.audit import audit
from tests.support.openai_protocol import Behaviour
from tests.support.openai_server import OpenAIServer
from tests.support.shop import TITLES, NewShop, Shop
from tests.support.stopping import (
    BARE,
    PATIENT_AI,
    TABLES,
    assert_shutting_down,
    ended,
    locked,
    not_serving,
    opened,
    read,
    restarted,
    retry_seconds,
    stopped,
    tell_to_stop,
    waiting_for,
)
from tests.support.waiting import eventually

GRACE = 5.0  # seconds; what executors give running work by default
CALLERS = 64
NAMES = {"runs": "playbooks.runs.v1.RunsService", "executor": "playbooks.executor.v1.ExecutorService"}
# Two runs_service and one executor_service, with the usual grace time.
STACK = {"runs_replicas": 2, "env": PATIENT_AI | {"AI_BATCH_SIZE": "1", "AI_CONCURRENCY": "1"}}


@pytest.fixture
async def shop(new_shop: NewShop) -> Shop:
    return await opened(new_shop())


def replica(shop: Shop, kind: str) -> Service:
    return shop.stack.runs[0] if kind == "runs" else shop.stack.executors[0]


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
    await openai.wait_for(lambda stats: stats.in_flight == 1)

    await stopped(shop.stack.executors[0], grace=GRACE)
    run = await shop.ended(run)
    await restarted(shop.stack.executors[0])

    assert (run.status, run.attempt) == (Run.SUCCEEDED, 1)
    assert openai.stats().requests == 1
    await audit(shop.stack)


async def test_inline_callers_are_answered_and_their_runs_go_on(
    start_stack: Callable[..., Any], openai: OpenAIServer
) -> None:
    """CreateRun waits for an inline run, longer than a stop may take."""
    shop: Shop = await start_stack(broker=False, runs_replicas=2, env=PATIENT_AI)
    await shop.stock(3)
    openai.behave(Behaviour(delay_seconds=3))
    creating = asyncio.create_task(shop.create(Run.PREVIEW_GENERATE))
    await openai.wait_for(lambda stats: stats.in_flight == 1)

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
        await openai.wait_for(lambda stats: stats.in_flight == 1)
        await stopped(shop.stack.runs[0], grace=0)
        answers = await asyncio.gather(*previews)
    assert {answer.run.status for answer in answers} == {Run.SUCCEEDED}
    assert len({answer.run.id for answer in answers}) == 1
    assert all(len(answer.draft.items) == 3 for answer in answers)
    await restarted(shop.stack.runs[0])
    await audit(shop.stack)
