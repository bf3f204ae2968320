"""Ending runs from outside: Stopper and DeadlineKeeper over a real PostgreSQL, and a real executor in this process."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from playbooks.executor.v1.executor_service_pb2 import ExecuteRunRequest
from playbooks.executor.v1.executor_service_pb2_grpc import ExecutorServiceStub
from playbooks.runs.v1.run_pb2 import Run

from devstack.ports import HOST, free_ports
from executor_service import app as executor_app
from executor_service.settings import ExecutorSettings
from runs_service import messages, stop
from runs_service.events import EventApplier
from runs_service.executor_client import ExecutorClient
from runs_service.stop import DeadlineKeeper, Stopper
from runs_service.store import RunStore
from servicekit.channel import open_channel
from servicekit.clock import SystemClock
from servicekit.database import Database
from tests.support.runs import new_run

LONG_AGO = timedelta(hours=1)


class Desk:
    """A process of runs_service as far as it ends runs. Its executor is at `target`."""

    def __init__(self, database: Database, target: str) -> None:
        self.clock = SystemClock()
        self.store = RunStore(database, reconcile_after=LONG_AGO)
        self.announced: list[Run] = []
        events = EventApplier(self.store, self.clock, announce=self.announced.extend)
        self.channel = open_channel(target, executor_settings("", target))
        executor = ExecutorClient(self.channel, None)
        self.stopper = Stopper(self.store, executor, events, self.clock, announce=self.announced.extend)
        self.deadlines = DeadlineKeeper(
            self.store, executor, events, self.clock, self.stopper, announce=self.announced.extend
        )

    async def create(self, count: int = 1, *, age: timedelta = timedelta(0), **fields: Any) -> list[Run]:
        now = self.clock.now() - age
        wanted = [new_run(now, idempotency_key=f"{fields.get('playbook_id')} {n}", **fields) for n in range(count)]
        return [stored.run for stored in await self.store.create(wanted)]

    async def execute(self, runs: Sequence[Run]) -> None:
        """Execute runs to their end at the executor, in whose opinion they have time; runs_service hears nothing."""
        for run in runs:
            job = messages.job(run, "r")
            job.ClearField("deadline")
            async for _ in ExecutorServiceStub(self.channel).ExecuteRun(ExecuteRunRequest(job=job), timeout=20):
                pass

    async def now(self, runs: Sequence[Run]) -> list[Run]:
        return [found for run in runs if (found := await self.store.get(run.project_id, run.id))]

    async def statuses(self, runs: Sequence[Run]) -> list[str]:
        return [Run.Status.Name(run.status) for run in await self.now(runs)]


def executor_settings(url: str, listen: str) -> ExecutorSettings:
    return ExecutorSettings(
        database_url=url or "postgresql://", listen=listen, auth_mode="disabled", ai_provider="offline"
    )


@asynccontextmanager
async def desk_at(database: Database, target: str) -> AsyncIterator[Desk]:
    desk = Desk(database, target)
    yield desk
    await desk.channel.close()


@pytest.fixture
async def executor(executor_database: str) -> AsyncIterator[str]:
    """The address of an executor."""
    async with executor_app.serving(executor_settings(executor_database, f"{HOST}:0")) as server:
        yield server.address


@pytest.fixture
async def desk(runs_database: Database, executor: str) -> AsyncIterator[Desk]:
    async with desk_at(runs_database, executor) as desk:
        yield desk


@pytest.fixture
async def lonely(runs_database: Database) -> AsyncIterator[Desk]:
    """A desk whose executor is away."""
    async with desk_at(runs_database, f"{HOST}:{free_ports(1)[0]}") as desk:
        yield desk


# Deadlines


async def test_a_run_that_ended_in_time_at_the_executor_is_not_failed_while_its_event_is_on_the_way(desk: Desk) -> None:
    done = await desk.create(2, age=LONG_AGO)
    unheard_of = await desk.create(1, age=LONG_AGO, playbook_id="missing_seo_description")
    await desk.execute(done)
    await desk.deadlines.tick()
    assert [run.error_code for run in await desk.now(done)] == ["PROJECT_NOT_FOUND"] * 2
    assert [run.error_code for run in await desk.now(unheard_of)] == ["RUN_DEADLINE_EXCEEDED"]


async def test_runs_past_their_deadline_end_while_no_executor_lives(
    lonely: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stop, "BATCH", 3)
    runs = await lonely.create(5, age=LONG_AGO)
    await lonely.deadlines.tick()
    assert lonely.deadlines._woken.is_set(), "there are more"
    await lonely.deadlines.tick()
    assert [run.error_code for run in await lonely.now(runs)] == ["RUN_DEADLINE_EXCEEDED"] * 5
