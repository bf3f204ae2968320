"""RunStore over a real PostgreSQL: changes of runs, by several processes, without gaps and without loss."""

import asyncio
import random

import psycopg
import pytest
from playbooks.runs.v1.run_pb2 import Run

from runs_service.store import RunStore
from servicekit.postgres.database import Database
from tests.support.database import rows
from tests.support.run_stores import apply, created, other, store
from tests.support.runs import NOW, event, new_run

__all__ = ["other", "store"]  # fixtures


async def test_concurrent_appliers_leave_a_history_without_gaps(
    store: RunStore, other: RunStore, runs_database: Database
) -> None:
    ids = [(await created(store, idempotency_key=str(n))).id for n in range(5)]
    events = [event(run_id, number, Run.RUNNING, completed=number) for run_id in ids for number in range(1, 21)]
    events += [event(run_id, 21, Run.SUCCEEDED, completed=100) for run_id in ids]
    chance = random.Random(7)
    events = [copy for one in events for copy in [one] * chance.choice([1, 2])]
    chance.shuffle(events)
    batches = [events[n : n + 6] for n in range(0, len(events), 6)]
    async with asyncio.timeout(20):
        await asyncio.gather(*((store, other)[n % 2].history.apply_events(b, NOW) for n, b in enumerate(batches)))
    history = (await store.history.after(dict.fromkeys(ids, 0), limit=1000)).changes
    for run_id in ids:
        steps = [step for step in history if step.id == run_id]
        assert [step.sequence for step in steps] == list(range(1, len(steps) + 1))
        assert steps[-1].status == Run.SUCCEEDED
        assert await store.runs.get("p", run_id) == steps[-1]
    stale = await rows(runs_database, "SELECT status, event_number FROM runs.runs")
    assert {tuple(row) for row in stale} == {("SUCCEEDED", 21)}


async def test_a_number_that_was_passed_changes_nothing(store: RunStore) -> None:
    run = await created(store)
    (*_, after) = await apply(store, event(run.id, 5, Run.RUNNING, completed=5))
    for late in (5, 4, 1):
        assert await apply(store, event(run.id, late, Run.RUNNING, attempt=2)) == []
    assert await store.runs.get("p", run.id) == after


async def test_events_of_unknown_runs_are_passed_over(store: RunStore) -> None:
    run = await created(store)
    unknown = new_run().run.id
    changed = await apply(store, event(unknown, 1, Run.RUNNING), event(run.id, 1, Run.RUNNING))
    assert [one.id for one in changed] == [run.id]


async def test_events_of_one_batch_apply_in_order(store: RunStore) -> None:
    run = await created(store)
    (*_, after) = await apply(
        store,
        event(run.id, 1, Run.RUNNING),
        event(run.id, 2, Run.RUNNING, completed=50),
        event(run.id, 3, Run.SUCCEEDED, completed=100),
    )
    assert after.sequence == 4
    assert [run.sequence for run in (await store.history.after({run.id: 1}, limit=2)).changes] == [2, 3]


async def test_a_change_that_fails_leaves_nothing_behind(store: RunStore, runs_database: Database) -> None:
    run = await created(store)

    unstorable = event(run.id, 2, Run.SUCCEEDED, scope_id="\0")
    with pytest.raises(psycopg.DataError):
        await apply(store, event(run.id, 1, Run.RUNNING), unstorable)
    assert await store.runs.get("p", run.id) == run
    assert len(await rows(runs_database, "SELECT 1 FROM runs.run_events")) == 1


# What another process changed meanwhile


async def test_a_change_after_another_process_changed_the_run_loses_nothing(store: RunStore, other: RunStore) -> None:
    run = await created(store)  # and remembers it as it was
    await apply(other, event(run.id, 1, Run.RUNNING))
    (after,) = await apply(store, event(run.id, 2, Run.RUNNING, completed=7))
    assert (after.sequence, after.progress.completed) == (3, 7)
    history, _ = await store.history.after({run.id: 0}, limit=10)
    assert [change.sequence for change in history] == [1, 2, 3]


async def test_a_run_that_another_process_ended_stays_ended(store: RunStore, other: RunStore) -> None:
    run = await created(store)
    (ended,) = await other.history.cancel_queued([run.id], NOW)
    assert ended.status == Run.CANCELLED
    assert await apply(store, event(run.id, 1, Run.RUNNING)) == []
    assert await store.runs.get("p", run.id) == ended


async def test_only_the_runs_of_a_batch_that_another_process_changed_are_read_again(
    store: RunStore, other: RunStore
) -> None:
    mine, theirs = await created(store, idempotency_key="a"), await created(store, idempotency_key="b")
    await apply(other, event(theirs.id, 1, Run.RUNNING))
    changed = await apply(store, event(theirs.id, 2, Run.SUCCEEDED), event(mine.id, 1, Run.SUCCEEDED))
    assert {(run.id, run.sequence) for run in changed} == {(mine.id, 2), (mine.id, 3), (theirs.id, 3)}


async def test_an_event_with_a_passed_number_is_ignored_without_a_query(store: RunStore) -> None:
    run = await created(store)
    await apply(store, event(run.id, 4, Run.RUNNING))
    assert await apply(store, event(run.id, 4, Run.RUNNING), event(run.id, 3, Run.RUNNING, completed=9)) == []
