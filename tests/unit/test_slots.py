"""The slots of an executor: what is free, and when jobs that come in may take them."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from executor_service.domain.execution import Execution, Lease, State, Status
from executor_service.execution.leases import Leases
from executor_service.execution.slots import Slots
from servicekit.postgres.database import Database
from tests.support.executor import job

COUNT = 4


def execution() -> Execution:
    of = job()
    state = State(of.run_id, "p", 1, Status.RUNNING, 1, 0, 0, False, None, "", "", None, "", "", None, None)
    return Execution(of.body, Lease(of.run_id, 1, "one"), crashes=0, state=state)


@pytest.fixture
async def leases() -> AsyncIterator[Leases]:
    """Leases whose database is never asked."""
    database = Database("postgresql://127.0.0.1:1/none", pool_size=1, application_name="test")
    yield Leases(database, owner="one", seconds=15)
    await database.close()


@pytest.fixture
def slots(leases: Leases) -> Slots:
    slots = Slots(leases, count=COUNT)
    slots.backlog = False
    assert slots.take_claims_in_doubt()
    slots.backlog = False
    return slots


async def test_each_execution_takes_a_slot_until_its_task_is_done(slots: Slots, leases: Leases) -> None:
    done = asyncio.Event()
    task = asyncio.ensure_future(done.wait())
    leases.add(execution(), task)  # type: ignore[arg-type]
    assert slots.free == COUNT - 1
    done.set()
    await task
    await asyncio.sleep(0)  # for the task's callbacks
    assert slots.free == COUNT


def test_a_claim_under_way_keeps_its_slots(slots: Slots) -> None:
    with slots.reserve(3):
        assert slots.free == COUNT - 3
        with slots.reserve_for_new(2) as reserved:
            assert not reserved
        with slots.reserve_for_new(1) as reserved:
            assert reserved
            assert slots.free == 0
    assert slots.free == COUNT


def test_new_jobs_do_not_overtake_a_backlog(slots: Slots) -> None:
    with slots.reserve_for_new(1) as reserved:
        assert reserved
    slots.backlog = True
    with slots.reserve_for_new(1) as reserved:
        assert not reserved
        assert slots.free == COUNT


def test_a_claim_that_raises_is_in_doubt_once(slots: Slots) -> None:
    assert not slots.take_claims_in_doubt()
    with pytest.raises(LookupError), slots.reserve(1):
        raise LookupError
    assert slots.free == COUNT
    assert slots.take_claims_in_doubt()
    assert not slots.take_claims_in_doubt()


def test_claims_in_doubt_wait_for_the_claims_under_way(slots: Slots) -> None:
    slots.doubt_claims()
    with slots.reserve(1):
        assert not slots.take_claims_in_doubt(), "it would hand back what this claim is getting"
    assert slots.take_claims_in_doubt()


def test_new_jobs_are_not_claimed_while_claims_in_doubt_are_handed_back(slots: Slots) -> None:
    slots.doubt_claims()
    assert slots.take_claims_in_doubt()
    with slots.reserve_for_new(1) as reserved:
        assert not reserved


def test_a_new_process_may_have_claims_from_before(leases: Leases) -> None:
    assert Slots(leases, count=COUNT).take_claims_in_doubt()
