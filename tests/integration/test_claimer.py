"""The claimer: when it looks for work, what it leaves alone, and what happens to what it started."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from executor_service.domain.execution import Job
from executor_service.execution.claimer import BUSY_POLL, IDLE_POLL
from executor_service.execution.slots import SLOTS_TO_A_SPARE_ONE
from executor_service.store.claims import DOUBTFUL_CRASHES, Claims
from executor_service.store.jobs import Jobs
from servicekit.background.tasks import running
from servicekit.errors import database_unavailable
from servicekit.postgres.database import Database
from tests.support.executor import job
from tests.support.stage import Stage
from tests.support.waiting import eventually

SOON = 3.0  # seconds; who waits for the next poll after claims in vain does not get there
assert SOON < 0.8 * IDLE_POLL


@pytest.fixture
async def narrow(executor_database: str) -> AsyncIterator[Database]:
    """A database of one connection: who has it keeps the claimer waiting."""
    database = Database(executor_database, pool_size=1, application_name="narrow")
    yield database
    await database.close()


async def store_suspects(stage: Stage, count: int) -> list[Job]:
    """Store runs whose executor died DOUBTFUL_CRASHES - 1 times, and has just died again."""
    suspects = [job() for _ in range(count)]
    await Jobs(stage.database).enqueue(suspects)
    for _ in range(DOUBTFUL_CRASHES):
        await Claims(stage.database).claim(owner="dead", limit=count, lease_seconds=15)
        await stage.rows("UPDATE executor.executions SET lease_until = now() - interval '1 second'")
    return suspects


# Slots


async def test_jobs_that_come_in_during_a_claim_do_not_take_its_slots(stage: Stage, narrow: Database) -> None:
    claimer = stage.claimer_over(narrow)
    async with running(stage.outcomes, claimer):
        await eventually(lambda: not stage.slots.backlog)  # it found nothing, and jobs that come in start at once
        async with narrow.transaction():
            claimer.wake()
            await eventually(lambda: not stage.slots.free)
            await stage.inbox.accept([job()])
            assert await stage.attempts() == [("QUEUED", 0, 0)]
        await eventually(lambda: len(stage.staged.begun) == 1)  # by the claim
        stage.staged.open.set()
        await eventually(stage.all_succeeded)


async def test_while_more_waits_than_there_is_room_for_each_end_begins_the_next(executor_database: str) -> None:
    runs = 20
    async with Stage(executor_database, concurrency=1) as stage:
        stage.staged.open.set()
        await Jobs(stage.database).enqueue([job() for _ in range(runs)])
        async with stage.working(), asyncio.timeout((runs - 1) * BUSY_POLL * 0.5):  # a poll each takes at least 0.8
            await eventually(stage.all_succeeded)


async def test_a_project_whose_runs_last_for_hours_leaves_a_slot_to_the_others(executor_database: str) -> None:
    count = SLOTS_TO_A_SPARE_ONE
    async with Stage(executor_database, concurrency=count) as stage, stage.working():
        await eventually(lambda: not stage.slots.backlog)
        for _ in range(count + 3):
            await stage.inbox.accept([job(project="busy")])
        await eventually(lambda: len(stage.staged.begun) == count)
        first, second = job(project="other"), job(project="third")
        for late in first, second:
            await stage.inbox.accept([late])
            await eventually(lambda: len(stage.staged.begun) > count)
            assert stage.staged.begun.pop().run_id == late.run_id
            stage.leases.revoke(late.run_id)  # its slot is free
            await eventually(lambda: len(stage.leases) == count)
        stage.staged.open.set()
        await eventually(lambda: len(stage.staged.begun) == count + 3)


# Old runs


async def test_a_young_claimer_leaves_old_runs_alone_also_as_they_come_in(stage: Stage, narrow: Database) -> None:
    """They may have been cancelled while no executor lived, and those cancels are still on their way."""
    old, new = job(), job()
    assert new.created_at > stage.clock.now()
    await Jobs(stage.database).enqueue([new])
    claimer = stage.claimer_over(narrow, startup_delay=60)
    async with running(claimer):
        await eventually(lambda: len(stage.staged.begun) == 1)  # it has claimed, and had room for more
        await stage.inbox.accept([old._replace(created_at=stage.clock.now() - timedelta(days=1))])
        statuses = await stage.rows("SELECT status, run_id FROM executor.executions")
        assert {tuple(row) for row in statuses} == {("RUNNING", new.run_id), ("QUEUED", old.run_id)}


# Suspects


async def test_nothing_suspect_is_begun_beside_a_suspect_and_the_next_follows_at_once(stage: Stage) -> None:
    suspects = await store_suspects(stage, 2)
    async with stage.working():
        await eventually(lambda: len(stage.staged.begun) == 1)
        fresh = job()
        await Jobs(stage.database).enqueue([fresh])  # as another executor stores it
        stage.claimer.wake()
        await eventually(lambda: len(stage.staged.begun) > 1)
        assert [lease.run_id for lease in stage.staged.begun[1:]] == [fresh.run_id]

        await stage.claim_in_vain()
        stage.staged.open.set()
        await eventually(stage.all_succeeded, timeout=SOON)
    assert {lease.run_id for lease in stage.staged.begun} == {fresh.run_id, *(each.run_id for each in suspects)}


# Handing back


async def test_a_run_that_was_handed_back_is_taken_again_at_once(stage: Stage) -> None:
    stage.staged.errors = [database_unavailable()]
    async with stage.working():
        await stage.inbox.accept([job()])
        await eventually(lambda: len(stage.staged.begun) == 1)
        await stage.claim_in_vain()
        stage.staged.open.set()
        await eventually(stage.all_succeeded, timeout=SOON)
    assert await stage.attempts() == [("SUCCEEDED", 2, 0)]
