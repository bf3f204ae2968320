"""Scenario 8: watchers come and go, thousands of them, and leave nothing behind in the server."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import grpc
import psycopg
import pytest
from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2 import WatchRunRequest, WatchRunResponse
from playbooks.runs.v1.runs_service_pb2_grpc import RunsServiceStub

from tests.faults.sizes import FULL, size
from tests.support.audit import audit
from tests.support.measured_runs import Holdings, MeasuredRuns, measured
from tests.support.shop import Shop
from tests.support.waiting import eventually

CYCLES = size(20_000, 1_000)
CYCLES_IN_THE_DATABASE = size(2_000, 200)
WARM_UP = size(4_000, 1_000)  # pools, caches and the heap itself grow to their size
WAVE = 40  # streams open at once; five times as many as there are connections to the database

BYTES_A_STREAM = 30
# What a heap that is neither idle nor compact moves by, whatever happens. It is the larger part of the small size's
# limit, which still finds whatever keeps a stream's context, task or messages; the large size does without it.
NOISE = 0 if FULL else 256 * 1024


@dataclass
class Leaving:
    """A server with one run that does not end, and the streams to it."""

    shop: Shop
    run: Run
    server: MeasuredRuns
    stub: RunsServiceStub

    def open(self) -> "grpc.aio.UnaryStreamCall[WatchRunRequest, WatchRunResponse]":
        request = WatchRunRequest(project_id=self.shop.project, run_id=self.run.id)
        return self.stub.WatchRun(request, metadata=self.shop.auth()["metadata"], timeout=120)

    async def watched_by(self, count: int) -> None:
        """Return when the server has so many subscriptions."""

        async def counted() -> bool:
            return (await self.server.holdings(collected=False)).subscriptions == count

        await eventually(counted)

    async def come_and_go(self, cycles: int) -> None:
        for _ in range(0, cycles, WAVE):
            calls = [self.open() for _ in range(WAVE)]
            # All have been served before one is cancelled: a cancel that overtakes a message still being written
            # costs some 300 bytes of grpcio's own (docs/reliability.md), and this is about ours.
            for message in await asyncio.gather(*(call.read() for call in calls)):
                assert message.kind == WatchRunResponse.SNAPSHOT
            for call in calls:
                call.cancel()

    async def come_and_go_in_the_database(self, cycles: int) -> None:
        """Each is cancelled inside its first statement, or in the queue for a connection."""
        with psycopg.connect(self.shop.stack.postgres.url(database="playbook_runs")) as database:
            for _ in range(0, cycles, WAVE):
                database.execute("LOCK TABLE runs.runs IN ACCESS EXCLUSIVE MODE")
                calls = [self.open() for _ in range(WAVE)]
                await self.watched_by(WAVE)
                for call in calls:
                    call.cancel()
                await self.watched_by(0)
                database.rollback()

    async def left_alone(self, tasks: int | None = None) -> Holdings:
        """Return what the server holds when nobody watches, and it has no more than so many tasks."""
        await self.watched_by(0)
        if tasks is not None:

            async def rested() -> bool:
                return (await self.server.holdings(collected=False)).tasks <= tasks

            await eventually(rested)
        return await self.server.holdings()

    async def leaves_nothing(self, which: str, before: Holdings, streams: int) -> None:
        """Check it once what is still under way below the server has ended, too; a leak does not end."""

        async def clean() -> bool:
            return is_clean(which, before, await self.left_alone(before.tasks), streams)

        await eventually(clean)


@pytest.fixture
async def leaving(start_stack: Callable[..., Any]) -> AsyncIterator[Leaving]:
    """Nothing but watching goes on: the executor is away, and nobody asks for it."""
    shop: Shop = await start_stack(runs_env={"RUNS_RECONCILE_SECONDS": "3600", "LOG_LEVEL": "INFO"})
    with measured(shop.stack.runs[0]) as server:
        shop.stack.executors[0].kill()
        run = (await shop.create(Run.PREVIEW_GENERATE)).run
        yield Leaving(shop, run, server, shop.runs())
    shop.stack.executors[0].start()
    assert await audit(shop.stack) == 1


@pytest.mark.timeout(600)
async def test_streams_that_are_cancelled_leave_nothing(leaving: Leaving) -> None:
    await leaving.come_and_go(WARM_UP)
    before = await leaving.left_alone()
    await leaving.come_and_go(CYCLES)
    await leaving.leaves_nothing("cancelled while they wait", before, CYCLES)

    await leaving.come_and_go_in_the_database(WARM_UP // 10)
    before = await leaving.left_alone(before.tasks)
    await leaving.come_and_go_in_the_database(CYCLES_IN_THE_DATABASE)
    await leaving.leaves_nothing("cancelled while they read the database", before, CYCLES_IN_THE_DATABASE)


def is_clean(which: str, before: Holdings, after: Holdings, streams: int) -> bool:
    native = after.native - before.native
    objects = after.objects - before.objects
    print(
        f"{streams} streams {which}: {native / streams:+.1f} bytes of native heap and {objects / streams:+.3f} objects "
        f"of Python's each; {before.tasks} tasks before, {after.tasks} after"
    )
    assert after.subscriptions == 0
    return native < BYTES_A_STREAM * streams + NOISE and objects < 0.5 * streams + 500
