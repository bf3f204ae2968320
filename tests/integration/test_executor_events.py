"""The events of an execution: every change has the next number, and effects come with their outcome."""

import re

import psycopg
import pytest

from executor_service.domain.execution import Lease, Status
from executor_service.models import RUN_TYPES, STATUSES
from executor_service.store.claims import Claims
from executor_service.store.outbox import Outbox
from tests.support.claims import claim
from tests.support.executor import Bench, job
from tests.support.waiting import eventually


async def test_every_change_has_the_next_number_and_is_marked_as_published(bench: Bench) -> None:
    await bench.stock(3)
    async with bench.working():
        states = await bench.follow(job())
        numbers = [state.number for state in states]
        assert numbers == sorted(set(numbers))
        await eventually(lambda: outbox_is_empty(bench))
    assert [states[0].status, states[-1].status] == [Status.QUEUED, Status.SUCCEEDED]


async def outbox_is_empty(bench: Bench) -> bool:
    unpublished = "SELECT count(*) FROM executor.executions WHERE published_number < event_number"
    return await bench.value(unpublished) == 0


async def test_marking_published_events_does_not_wait_for_a_run_that_is_being_written(bench: Bench) -> None:
    await bench.inbox.accept([job() for _ in range(50)])
    states = [execution.state for execution in await claim(bench, limit=50)]

    async def marked() -> object:
        await Outbox(bench.database).mark_published(states)
        return await bench.value("SELECT count(*) FROM executor.executions WHERE published_number = 1")

    async with bench.database.transaction() as connection:
        await Claims(connection).lock(Lease(states[0].run_id, 1, "one"))
        assert await marked() == 49
    assert await marked() == 50


async def test_a_run_of_another_replica_can_be_followed(bench: Bench, other: Bench) -> None:
    await bench.stock(1)
    async with other.working():
        state = await bench.execute(job())  # taken in here, executed there
    assert state.status is Status.SUCCEEDED


# SUCCEEDED is written after a run's effects, in the same transaction.
REFUSE_SUCCESS = """
CREATE FUNCTION executor.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'refused'; END $$;
CREATE TRIGGER refuse_success BEFORE UPDATE ON executor.executions
FOR EACH ROW WHEN (new.status = 'SUCCEEDED') EXECUTE FUNCTION executor.refuse()"""


async def test_effects_and_outcome_are_one_transaction(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    await bench.stock(2)
    with psycopg.connect(bench.url) as connection:
        connection.execute(REFUSE_SUCCESS)
    try:
        async with bench.working():
            state = await bench.preview(expect=Status.FAILED)
    finally:
        with psycopg.connect(bench.url) as connection:
            connection.execute("DROP FUNCTION executor.refuse CASCADE")
    assert "refused" in caplog.text
    assert state.draft_id is None
    for effects in ("drafts", "draft_items"):
        assert await bench.value(f"SELECT count(*) FROM executor.{effects}") == 0
    assert state.error_code == "INTERNAL_ERROR"


async def test_the_database_takes_the_statuses_and_types_of_the_contract(bench: Bench) -> None:
    for name, values in (("executions_status", STATUSES), ("executions_run_type", RUN_TYPES)):
        query = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = %(name)s"
        assert set(re.findall("'([A-Z_]+)'", await bench.value(query, name=name))) == set(values)
