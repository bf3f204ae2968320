"""Scenario 2: every watcher's connection is cut every other second and runs_service is killed, and each watcher sees
each change of its runs once, in order, to the end."""

import asyncio
import contextlib
import random
from collections import defaultdict
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import grpc
import psycopg
import pytest
from playbooks.runs.v1.run_pb2 import Run, RunMeta

from devstack.services import Service
from devstack.stack import Stack
from runs_client.connection import Connection
from runs_client.watch import RunWatch
from tests.faults.sizes import size
from tests.support.audit import audit
from tests.support.openai_protocol import Behaviour
from tests.support.openai_server import OpenAIServer
from tests.support.proxy import Proxy
from tests.support.shop import Shop
from tests.support.waiting import eventually
from tests.support.watching import RecordingStub, Stream, broken_words

WATCHERS = size(100, 20)
RUNS = size(1_000, 100)
KILLS = size(2, 1)
LIFETIME = (1.0, 3.0)  # seconds of a connection

# A run is so many AI requests. As many runs as there are watchers wait or are under way at once, so one takes
# WATCHERS * PRODUCTS * DELAY / AT_ONCE seconds, if the machine keeps up: 6 (3.2), which is one cut or more.
PRODUCTS = size(6, 4)
AT_ONCE = size(50, 10)
DELAY = size(5, 4) / 10  # seconds

ENVIRONMENT = {
    "AI_BATCH_SIZE": "1",
    "AI_CONCURRENCY": str(AT_ONCE),
    "AI_TIMEOUT_SECONDS": "60",
    "EXECUTOR_CONCURRENCY": str(size(32, 8)),
    "EXECUTOR_DATABASE_POOL_SIZE": "20",
}


class Watcher:
    """Watches runs, one after the other, over a connection of its own that does not last."""

    def __init__(self, stack: Stack, proxy: Proxy, *, whole: bool) -> None:
        self._connection = Connection(proxy.target, token=stack.token("*", "VIEWER"))
        self._stub = RecordingStub(self._connection.channel)
        self._whole = whole  # from the first change on; otherwise from a snapshot
        self.ends: dict[str, Run] = {}
        self.watching: str | None = None

    @property
    def streams(self) -> dict[str, list[Stream]]:
        return self._stub.streams

    async def watch(self, run: Run) -> None:
        after = 0 if self._whole else None
        watch = RunWatch(self._connection, self._stub, run.project_id, run.id, after_sequence=after)  # type: ignore[arg-type]
        self.watching = run.id
        async for response in watch.responses():
            self.ends[run.id] = response.run
        self.watching = None

    async def close(self) -> None:
        await self._connection.close()


async def stocked(shops: list[Shop]) -> None:
    """Give each of the shops its products, a few shops at a time."""
    waiting = iter(shops)

    async def some() -> None:
        for shop in waiting:
            await shop.open()
            await shop.stock(PRODUCTS)

    await asyncio.gather(*(some() for _ in range(5)))


async def create(shop: Shop) -> Run:
    """Create a run, however often that has to be tried; its key makes it one."""
    created: list[Run] = []

    async def tried() -> bool:
        meta = RunMeta(sample_size=PRODUCTS)
        with contextlib.suppress(grpc.aio.AioRpcError):
            created.append((await shop.create(Run.PREVIEW_GENERATE, idempotency_key="the one", meta=meta)).run)
        return bool(created)

    await eventually(tried, timeout=60)
    return created[0]


async def kill(service: Service) -> None:
    service.kill()
    service.start()
    await asyncio.to_thread(service.wait_ready)


def histories(stack: Stack) -> dict[str, list[Run]]:
    """Return what happened to each run, as the database has it."""
    found: dict[str, list[Run]] = defaultdict(list)
    with psycopg.connect(stack.postgres.url(database="playbook_runs")) as database:
        for run_id, run in database.execute("SELECT run_id::text, run FROM runs.run_events ORDER BY run_id, sequence"):
            found[run_id].append(Run.FromString(run))
    return found


@pytest.mark.timeout(900)
async def test_each_watcher_sees_each_change_once_and_in_order(
    start_stack: Callable[..., Any], openai: OpenAIServer
) -> None:
    first: Shop = await start_stack(env=ENVIRONMENT)
    stack = first.stack
    openai.behave(Behaviour(delay_seconds=DELAY))
    dice = random.Random(2)
    shops = [Shop(stack, first.channels) for _ in range(RUNS)]  # each with products that nobody has asked about
    await stocked(shops)
    waiting = iter(shops)
    watchers: list[Watcher] = []
    hit_by_kills: list[int] = []

    async def work(watcher: Watcher) -> None:
        for shop in waiting:
            await watcher.watch(await create(shop))

    async def kill_now_and_then() -> None:
        for number in range(1, KILLS + 1):
            share = RUNS * number // (KILLS + 1)
            await eventually(lambda share=share: sum(len(w.ends) for w in watchers) >= share, timeout=600)
            hit_by_kills.append(sum(watcher.watching is not None for watcher in watchers))
            await kill(stack.runs[0])

    async with AsyncExitStack() as cleanup:
        proxies = [Proxy(stack.runs_target, lifetime=lambda: dice.uniform(*LIFETIME)) for _ in range(WATCHERS)]
        for number, proxy in enumerate(proxies):
            await cleanup.enter_async_context(proxy)
            watchers.append(Watcher(stack, proxy, whole=number % 2 == 0))
            cleanup.push_async_callback(watchers[-1].close)
        async with asyncio.TaskGroup() as group:
            group.create_task(kill_now_and_then())
            for watcher in watchers:
                group.create_task(work(watcher))

    happened = histories(stack)
    watched = {run_id: streams for watcher in watchers for run_id, streams in watcher.streams.items()}
    broken = {run_id: words for run_id in watched if (words := broken_words(watched[run_id], happened[run_id]))}
    assert not broken, f"{len(broken)} of {RUNS}: {next(iter(broken.items()))}"
    assert watched.keys() == happened.keys()
    assert len(watched) == RUNS
    ends = [end for watcher in watchers for end in watcher.ends.values()]
    assert {end.status for end in ends} == {Run.SUCCEEDED}

    # The faults were there: streams were cut that had delivered something, and went on with more.
    cuts = sum(stream.error is not None and bool(stream.messages) for streams in watched.values() for stream in streams)
    resumed = sum(sum(bool(stream.messages) for stream in streams) > 1 for streams in watched.values())
    assert resumed > RUNS / 2
    assert len(hit_by_kills) == KILLS
    assert min(hit_by_kills) > WATCHERS / 4

    answered = openai.stats().answered
    assert set(answered.values()) == {1}
    assert len(answered) == RUNS * PRODUCTS
    assert await audit(stack, timeout=60) == RUNS
    print(
        f"{WATCHERS} watchers, {RUNS} runs, {sum(map(len, happened.values()))} changes; {cuts} streams cut that had "
        f"delivered something, {resumed} runs over several; {sum(proxy.cuts for proxy in proxies)} connections cut; "
        f"{hit_by_kills} watched when runs_service was killed"
    )
