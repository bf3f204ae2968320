"""RunStore over a real PostgreSQL: which runs wait to be dispatched, and which are silent."""

import asyncio
from collections import Counter
from datetime import timedelta

from playbooks.runs.v1.run_pb2 import Run

from runs_service.store import RunStore
from servicekit.postgres.database import Database
from tests.support.database import rows
from tests.support.run_stores import LATER, apply, created, store
from tests.support.runs import event, new_run

__all__ = ["store"]  # fixtures


async def test_a_run_is_in_the_outbox_until_it_is_dispatched_or_has_an_event(store: RunStore) -> None:
    marked, reported, left = [await created(store, idempotency_key=str(n)) for n in range(3)]
    await store.outbox.mark_dispatched({marked.id: 0.0})
    await apply(store, event(reported.id, 1, Run.QUEUED))
    waiting = await store.outbox.undispatched(older_than=timedelta(0), limit=10)
    assert [(item.run.id, item.request_id) for item in waiting] == [(left.id, "r")]
    assert await store.outbox.undispatched(older_than=timedelta(days=36500), limit=10) == []


async def test_dispatched_at_is_the_time_of_the_publication_not_of_the_mark(
    store: RunStore, runs_database: Database
) -> None:
    run = await created(store)
    await store.outbox.mark_dispatched({run.id: 60.0})
    ((age,),) = await rows(runs_database, "SELECT extract(epoch FROM now() - dispatched_at)::float8 FROM runs.runs")
    assert 60.0 <= age < 90.0


async def test_two_replicas_never_take_the_same_silent_run(runs_database: Database, runs_database_url: str) -> None:
    at_once = RunStore(runs_database, reconcile_after=timedelta(0))
    stored = await at_once.runs.create([new_run(idempotency_key=str(n)) for n in range(100)])
    ids = {one.run.id for one in stored}
    await at_once.outbox.mark_dispatched(dict.fromkeys(ids, 0.0))
    database = Database(runs_database_url, pool_size=5, application_name="other")
    replicas = [RunStore(runs_database, reconcile_after=LATER), RunStore(database, reconcile_after=LATER)]
    taken: list[str] = []
    while len(taken) < 100:
        for batch in await asyncio.gather(*(replicas[n % 2].outbox.take_silent(limit=15) for n in range(4))):
            taken += [item.run.id for item in batch]
    assert Counter(taken) == Counter(ids)
    assert await replicas[0].outbox.take_silent(limit=100) == []
    await database.close()


async def test_what_is_not_dispatched_or_has_ended_is_not_silent(runs_database: Database) -> None:
    store = RunStore(runs_database, reconcile_after=timedelta(0))
    _, ended, silent = [await created(store, idempotency_key=str(n)) for n in range(3)]
    await store.outbox.mark_dispatched({ended.id: 0.0, silent.id: 0.0})
    await apply(store, event(ended.id, 1, Run.FAILED))
    assert [item.run.id for item in await store.outbox.take_silent(limit=10)] == [silent.id]
