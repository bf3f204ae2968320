"""RunStore over a real PostgreSQL: one run for each request, however many ask for it at once."""

import asyncio
import random
from collections import Counter
from typing import Any

import pytest
from playbooks.runs.v1.run_pb2 import Run

from runs_service.store import Filters, RunStore
from servicekit.postgres.database import Database
from tests.support.database import rows
from tests.support.run_stores import apply, created, other, store
from tests.support.runs import TERMINAL, event, new_run

__all__ = ["other", "store"]  # fixtures


async def test_200_concurrent_requests_of_one_key_over_two_replicas_make_one_run(
    store: RunStore, other: RunStore
) -> None:
    stored = await asyncio.gather(
        *((store, other)[n % 2].runs.create([new_run(idempotency_key="k")]) for n in range(200))
    )
    outcomes = [outcome for (outcome,) in stored]
    assert len({outcome.run.id for outcome in outcomes}) == 1
    assert Counter(outcome.created for outcome in outcomes) == {True: 1, False: 199}
    assert all(outcome.same_request for outcome in outcomes)


async def test_batches_of_the_same_keys_in_any_order_do_not_block_each_other(store: RunStore, other: RunStore) -> None:
    def batch(n: int) -> list[Any]:
        wanted = [new_run(idempotency_key=f"k{key}") for key in range(40)]
        random.Random(n).shuffle(wanted)
        return wanted

    async with asyncio.timeout(20):
        batches = [batch(n) for n in range(20)]
        stored = await asyncio.gather(*((store, other)[n % 2].runs.create(b) for n, b in enumerate(batches)))
    by_key: dict[str, set[str]] = {}
    for wanted, outcomes in zip(batches, stored, strict=True):
        for one, outcome in zip(wanted, outcomes, strict=True):  # each outcome stands at its request's place
            assert outcome.run.idempotency_key == one.run.idempotency_key
            by_key.setdefault(one.run.idempotency_key, set()).add(outcome.run.id)
    assert len(by_key) == 40
    assert all(len(ids) == 1 for ids in by_key.values())
    assert sum(outcome.created for outcomes in stored for outcome in outcomes) == 40


async def test_one_key_twice_in_one_batch_makes_one_run(store: RunStore) -> None:
    one, two = await store.runs.create([new_run(idempotency_key="k"), new_run(idempotency_key="k")])
    assert one.run.id == two.run.id
    assert sorted((one.created, two.created)) == [False, True]


async def test_another_request_under_a_key_is_distinguished(store: RunStore) -> None:
    run = await created(store, idempotency_key="k")
    (again,) = await store.runs.create([new_run(idempotency_key="k", playbook_id="missing_seo_description")])
    assert (again.run.id, again.created, again.same_request) == (run.id, False, False)


async def test_keys_of_two_projects_have_nothing_to_do_with_each_other(store: RunStore) -> None:
    runs = [await created(store, idempotency_key="k", project_id=project) for project in ("p", "q")]
    assert runs[0].id != runs[1].id


@pytest.mark.parametrize("status", TERMINAL, ids=Run.Status.Name)
@pytest.mark.parametrize("fields", [{"idempotency_key": "k"}, {"scope_id": "s"}, {}], ids=["given", "scoped", "bare"])
async def test_when_a_key_is_free_again(status: Run.Status.ValueType, fields: dict[str, str], store: RunStore) -> None:
    first = await created(store, **fields)
    await apply(store, event(first.id, 1, Run.RUNNING))
    (while_running,) = await store.runs.create([new_run(**fields)])
    assert while_running.run.id == first.id
    await apply(store, event(first.id, 2, status))
    (after,) = await store.runs.create([new_run(**fields)])
    is_free = status != Run.SUCCEEDED or not fields
    assert after.created is is_free
    assert (after.run.id != first.id) is is_free


async def test_a_key_that_is_freed_and_taken_all_the_time_still_gets_an_answer(
    store: RunStore, other: RunStore, runs_database: Database
) -> None:
    done = asyncio.Event()

    async def end_runs() -> None:
        while not done.is_set():
            page = await other.runs.page(Filters("p", status="QUEUED"), limit=10, offset=0, before=None)
            await apply(other, *(event(run.id, 1, Run.FAILED) for run in page))
            await asyncio.sleep(0)

    ending = asyncio.create_task(end_runs())
    stored = await asyncio.gather(*(store.runs.create([new_run(idempotency_key="k")]) for _ in range(100)))
    done.set()
    await ending
    assert len(stored) == 100
    created = {outcome.run.id for (outcome,) in stored if outcome.created}
    assert {outcome.run.id for (outcome,) in stored} == created
    found = await rows(runs_database, "SELECT id, status FROM runs.runs")
    assert {str(row.id) for row in found} == created
    assert [row.status for row in found].count("QUEUED") <= 1
