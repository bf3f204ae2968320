"""Slots: what is free, who may take it, and when a claim is in doubt."""

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from executor_service.domain.execution import Execution, Lease, State, Status
from executor_service.execution.leases import Leases
from executor_service.execution.slots import Slots
from executor_service.metrics import ExecutorMetrics
from servicekit.postgres.database import Database
from servicekit.telemetry.metrics import Metrics

COUNT = 4


@pytest.fixture
async def leases() -> AsyncIterator[Leases]:
    database = Database("postgresql://nobody@localhost/nothing", pool_size=1, application_name="slots")
    yield Leases(
        database, ExecutorMetrics(Metrics(), slots=COUNT), owner="one", seconds=15
    )  # nothing here asks the database
    await database.close()


@pytest.fixture
def slots(leases: Leases) -> Slots:
    """Slots as they are after a claim that found less than it had room for."""
    slots = Slots(leases, count=COUNT)
    assert slots.take_claims_in_doubt()
    slots.backlog = False
    return slots


async def test_an_execution_takes_a_slot_until_its_task_is_done(slots: Slots, leases: Leases) -> None:
    over = asyncio.Event()

    async def work() -> None:
        await over.wait()

    task = asyncio.create_task(work())
    leases.add(execution(), task)
    assert slots.free == COUNT - 1
    over.set()
    await asyncio.wait([task])
    assert slots.free == COUNT


async def test_what_a_claim_reserves_is_free_for_nobody_else(slots: Slots) -> None:
    with slots.reserve(3):
        assert slots.free == COUNT - 3
        with slots.reserve_for_new(2) as reserved:
            assert not reserved
        with slots.reserve_for_new(1) as reserved:
            assert reserved
            assert slots.free == 0
    assert slots.free == COUNT


async def test_new_jobs_do_not_overtake_a_backlog(slots: Slots) -> None:
    slots.backlog = True
    with slots.reserve_for_new(1) as reserved:
        assert not reserved
        assert slots.free == COUNT


async def test_a_claim_that_ends_without_an_answer_is_in_doubt(slots: Slots) -> None:
    with slots.reserve(1):
        pass
    assert not slots.take_claims_in_doubt()
    # A claim that is broken off, at a stop, may have been committed as well.
    with pytest.raises(asyncio.CancelledError), slots.reserve_for_new(1):
        raise asyncio.CancelledError
    assert slots.free == COUNT
    assert slots.take_claims_in_doubt()


async def test_nothing_is_handed_back_as_in_doubt_while_another_claim_is_under_way(slots: Slots) -> None:
    """It may have been committed, and its executions are not known yet: they would be handed back as well."""
    slots.doubt_claims()
    with slots.reserve(1):
        assert not slots.take_claims_in_doubt()
    assert slots.take_claims_in_doubt()
    assert not slots.take_claims_in_doubt()


async def test_new_jobs_wait_while_claims_in_doubt_are_handed_back(slots: Slots) -> None:
    slots.doubt_claims()
    assert slots.take_claims_in_doubt()
    with slots.reserve_for_new(1) as reserved:
        assert not reserved


def execution() -> Execution:
    run_id = uuid4()
    return Execution(
        job_body=b"",
        lease=Lease(run_id, 1, "one"),
        crashes=0,
        state=State(
            run_id=run_id,
            project_id="p",
            number=1,
            status=Status.RUNNING,
            attempt=1,
            completed=0,
            total=0,
            ai_used=False,
            draft_id=None,
            scope_id="",
            rules_hash="",
            result=None,
            error_code="",
            error_message="",
            started_at=None,
            finished_at=None,
        ),
    )
