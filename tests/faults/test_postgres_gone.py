"""Scenario 5: PostgreSQL is restarted, and connections to it are terminated, under a load. Calls are refused at once
and with a time to come back, no acknowledged run is lost, and everything is as fast as before soon after."""

import asyncio
import time
from collections.abc import Awaitable
from contextlib import suppress

import grpc
import pytest
from playbooks.runs.v1 import runs_service_pb2 as pb
from playbooks.runs.v1.run_pb2 import Run

from devstack.stack import Stack
from runs_client.errors import ServiceCallError
from tests.faults.sizes import overbooked, size
from tests.support import breaking
from tests.support.audit import audit
from tests.support.load import Load, preview_requests
from tests.support.openai_protocol import Behaviour
from tests.support.openai_server import OpenAIServer
from tests.support.shop import NewShop, Shop, refusal
from tests.support.waiting import eventually

RATE = 20  # runs a second
BEFORE = size(20, 6)  # seconds over which the speed is taken, before the fault and after it
SETTLES = size(
    10, 4
)  # seconds after the fault until everything is as before; the bounded load has less to catch up with
TERMINATING = size(60, 6)  # seconds
TERMINATED_A_SECOND = 5
# Both times sizes.overbooked() on a machine that has other things to do.
AT_ONCE = 1.5  # seconds a refusal may take; the services wait 2 s for a connection, 3 s for an answer
SOON = 0.5  # seconds from a change to its watcher, at the 95th percentile
SOON_ENOUGH = 0.75  # the same on a machine that is overbooked: without hints it is 0.9


STACK = {"runs_replicas": 2, "executor_replicas": 2, "env": {"AI_TIMEOUT_SECONDS": "30"}}


@pytest.fixture
async def shop(new_shop: NewShop) -> Shop:
    shop = new_shop()
    await shop.open()
    await shop.stock(3)
    return shop


async def test_a_restart_loses_nothing_and_is_over_soon(shop: Shop) -> None:
    async def restart() -> None:
        await breaking.stop(shop.stack.postgres)
        await breaking.start(shop.stack.postgres)

    await under_load(shop, restart())


async def test_terminated_connections_lose_nothing_and_are_replaced(shop: Shop) -> None:
    async def terminate() -> None:
        terminated = 0
        began = time.monotonic()
        for number in range(TERMINATING * TERMINATED_A_SECOND):
            await asyncio.sleep(began + number / TERMINATED_A_SECOND - time.monotonic())
            terminated += breaking.terminate(shop.stack, at_most=1)
        assert terminated >= 0.9 * TERMINATING * TERMINATED_A_SECOND

    await under_load(shop, terminate())


async def under_load(shop: Shop, fault: Awaitable[None]) -> Load:
    """Let `fault` happen under a load; check that nothing is lost and that all goes on as before."""
    stack = shop.stack
    processes = pids(stack)
    await shop.preview()  # the suggestions are there: what follows is about runs, not about AI
    others = await audit(stack)
    async with Load(stack, preview_requests(shop.project)) as load, asyncio.TaskGroup() as group:
        creating = group.create_task(load.create(rate=RATE))
        await load.reaches(RATE)
        steady = time.monotonic()
        await asyncio.sleep(BEFORE)
        broken = time.monotonic()
        await fault
        back = time.monotonic()
        await asyncio.sleep(SETTLES + BEFORE)
        load.stop()
        await creating
        await load.all_ended()
    before = load.ends_a_second(steady, broken)
    # Of new runs, so that those that had piled up do not hide a slowness; over the best of the times that begin soon.
    after = max(
        load.ends_a_second(back + begins, back + begins + BEFORE, created_since=back) for begins in range(SETTLES + 1)
    )
    refused = [call for call in load.calls if call.code is not grpc.StatusCode.OK]
    print(
        f"\n{len(load.acknowledged)} runs, {len(refused)} calls refused within"
        f" {max((call.seconds for call in refused), default=0) * 1000:.0f} ms; ends a second {before:.1f} before,"
        f" {after:.1f} after; first end {min(e for e in load.ended_at.values() if e > back) - back:.2f} s after the"
        f" fault; events p95 {load.event_seconds(0.95, since=steady, until=broken) * 1000:.0f} ms before,"
        f" {load.event_seconds(0.95, since=back + SETTLES) * 1000:.0f} ms after"
    )
    assert {(call.code, call.reason) for call in refused} <= {(grpc.StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE")}
    assert all(call.retry_after and call.seconds < AT_ONCE * overbooked() for call in refused)
    assert len(load.acknowledged) == len(load.ends) == load.started
    assert {run.status for run in load.ends.values()} == {Run.SUCCEEDED}
    assert after >= 0.95 * before
    assert pids(stack) == processes
    assert await audit(stack, timeout=60) == others + load.started
    return load


async def test_hints_come_again_after_only_the_listeners_were_killed(shop: Shop) -> None:
    """Without hints a watcher on the replica that did not write a change finds it by the poll, after up to 1 s."""
    stack = shop.stack
    await shop.preview()
    others = await audit(stack)
    async with Load(stack, preview_requests(shop.project)) as load, asyncio.TaskGroup() as group:
        creating = group.create_task(load.create(rate=RATE))
        await load.reaches(2 * RATE)
        killed = breaking.backends(stack, [breaking.LISTENERS])
        assert breaking.terminate(stack, [breaking.LISTENERS]) == len(killed) == len(stack.runs)
        await eventually(lambda: len(breaking.backends(stack, [breaking.LISTENERS]) - killed) == len(killed))
        back = time.monotonic()
        await asyncio.sleep(BEFORE)
        load.stop()
        await creating
        await load.all_ended()
    late_changes = [delivery for delivery in load.deliveries if delivery.received > back]
    print(f"\n{len(late_changes)} changes; p95 {load.event_seconds(0.95, since=back) * 1000:.0f} ms, p99"
          f" {load.event_seconds(0.99, since=back) * 1000:.0f} ms after the listeners were replaced")  # fmt: skip
    assert len(late_changes) > RATE * BEFORE
    assert load.event_seconds(0.95, since=back) < min(SOON * overbooked(), SOON_ENOUGH)
    assert await audit(stack) == others + load.started


async def test_while_postgres_is_down_calls_are_refused_at_once_and_open_streams_stay(
    shop: Shop, openai: OpenAIServer
) -> None:
    stack = shop.stack
    openai.behave(Behaviour(delay_seconds=8))  # the run goes on over the outage
    listening = breaking.backends(stack, [breaking.LISTENERS])
    run = (await shop.create(Run.PREVIEW_GENERATE, idempotency_key="over the outage")).run
    seen: list[list[Run]] = [[], []]
    streams = [asyncio.create_task(follow(shop, run, replica, seen[replica])) for replica in range(2)]
    await openai.wait_for(lambda stats: stats.in_flight > 0, timeout_seconds=20)
    await eventually(lambda: all(runs and runs[-1].status == Run.RUNNING for runs in seen))
    await breaking.stop(stack.postgres)

    async def watch() -> None:
        await shop.watch(run.id)

    for call in (
        lambda: shop.get(run.id),
        lambda: shop.runs().ListRuns(pb.ListRunsRequest(project_id=shop.project), **shop.auth()),
        lambda: shop.create(Run.PREVIEW_GENERATE, idempotency_key="in the outage"),
        lambda: shop.cancel(run.id),
        watch,
        shop.products,
    ):
        began = time.monotonic()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call()  # type: ignore[operator]
        assert time.monotonic() - began < AT_ONCE * overbooked()
        assert (caught.value.code(), refusal(caught.value).reason) == (
            grpc.StatusCode.UNAVAILABLE,
            "DATABASE_UNAVAILABLE",
        )
        assert 0 < retry_delay(caught.value) <= 5
    with suppress(TimeoutError):  # longer than a watcher waits between two looks
        async with asyncio.timeout(2):
            await asyncio.wait(streams, return_when=asyncio.FIRST_COMPLETED)
    assert not any(stream.done() for stream in streams)

    await breaking.start(stack.postgres)
    await asyncio.gather(*streams)
    for runs in seen:
        assert [change.sequence for change in runs] == list(range(1, len(runs) + 1))
        assert runs[-1].status == Run.SUCCEEDED
    await eventually(lambda: len(breaking.backends(stack, [breaking.LISTENERS]) - listening) == len(stack.runs))
    await audit(stack)


async def follow(shop: Shop, run: Run, replica: int, seen: list[Run]) -> None:
    """Watch over one stream, which is not replaced, to its end."""
    request = pb.WatchRunRequest(project_id=shop.project, run_id=run.id, after_sequence=0)
    async for message in shop.runs(replica).WatchRun(request, metadata=shop.auth()["metadata"]):
        if message.kind == pb.WatchRunResponse.UPDATED:
            seen.append(message.run)  # noqa: PERF401  # as they come, not at the end


def retry_delay(error: grpc.aio.AioRpcError) -> float:
    retry_after = ServiceCallError.from_call(error).retry_after
    assert retry_after is not None, "no RetryInfo"
    return retry_after


def pids(stack: Stack) -> list[int]:
    return [service.pid for service in (*stack.runs, *stack.executors) if service.alive]
