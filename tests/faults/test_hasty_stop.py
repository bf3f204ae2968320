"""A service that has little time to stop, or whose store is away: what it cannot finish is handed back, and it ends in
time with exit code 0."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from playbooks.runs.v1.run_pb2 import Run

from devstack.services import Service
from runs_service.app import GRACE as RUNS_GRACE
from tests.faults.sizes import FULL
from tests.support.audit import audit
from tests.support.openai_protocol import Behaviour
from tests.support.openai_server import OpenAIServer
from tests.support.shop import NewShop, Shop, log_lines
from tests.support.stopping import (
    BARE,
    PATIENT_AI,
    TABLES,
    assert_shutting_down,
    attempt,
    ended,
    locked,
    opened,
    read,
    restarted,
    stopped,
    tell_to_stop,
    waiting_for,
)
from tests.support.waiting import eventually

NO_GRACE = 0.3
LEASE = 30.0  # seconds; longer than anything here may take
# Two executor_service that give running work no time to end.
STACK = {
    "executor_replicas": 2,
    "env": PATIENT_AI | {"EXECUTOR_GRACE_SECONDS": str(NO_GRACE), "EXECUTOR_LEASE_SECONDS": str(LEASE)},
}


@pytest.fixture
async def shop(new_shop: NewShop) -> Shop:
    return await opened(new_shop())


async def test_a_call_that_outlasts_the_grace_time_gets_a_retry_delay(shop: Shop) -> None:
    """And not that it was cancelled: it was not, by anybody who would know."""
    service = shop.stack.executors[0]
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


async def test_work_beyond_the_grace_time_is_handed_back_at_once_and_finished_elsewhere(
    shop: Shop, openai: OpenAIServer
) -> None:
    await shop.stock(3)
    openai.behave(Behaviour(delay_seconds=30, times=1))
    run = (await shop.create(Run.PREVIEW_GENERATE)).run
    await openai.wait_for(lambda stats: stats.in_flight == 1)
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
    await openai.wait_for(lambda stats: stats.in_flight == 1)
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
