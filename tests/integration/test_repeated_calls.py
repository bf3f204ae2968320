"""Calls that are repeated, over a real PostgreSQL: a request_id leads to one run for ever."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest
from playbooks.runs.v1.run_pb2 import Run, RunMeta

from runs_service.messages import NewRun
from runs_service.store import RunStore
from servicekit.postgres.database import Connection, Database
from tests.support.database import rows
from tests.support.repeated_calls import SCOPED, calls, create, each_end, each_kind, end, stored_runs
from tests.support.run_stores import LATER, other, store
from tests.support.runs import NOW, event, new_run

__all__ = ["other", "store"]  # fixtures


class Counting(Database):
    """Counts the statements that are run on it directly, and its transactions."""

    statements = transactions = 0

    async def _run(self, statement: str, parameters: Mapping[str, object] | None) -> tuple[list[Any], int]:
        self.statements += 1
        return await super()._run(statement, parameters)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        self.transactions += 1
        async with super().transaction() as connection:
            yield connection


@pytest.fixture
def call() -> str:
    return str(uuid4())


class TestRequestId:
    @each_end
    @each_kind
    async def test_the_same_one_gets_its_run_whatever_became_of_it(
        self, fields: dict[str, Any], status: Run.Status.ValueType, store: RunStore, other: RunStore, call: str
    ) -> None:
        first = await create(store, request_id=call, **fields)
        assert (first.created, first.is_new) == (True, True)
        await end(store, first.run, status)
        again = await create(other, request_id=call.upper(), **fields)
        assert (again.run.id, again.run.status) == (first.run.id, status)
        assert (again.created, again.same_request, again.is_new) == (True, True, False)

    async def test_without_one_a_preview_that_has_ended_makes_way(self, store: RunStore, call: str) -> None:
        first = await create(store, request_id=call)
        await end(store, first.run, Run.SUCCEEDED)
        assert (await create(store)).is_new
        assert (await create(store, request_id=str(uuid4()))).run.id != first.run.id

    @pytest.mark.parametrize(
        "changed",
        [
            {"playbook_id": "missing_seo_description"},
            {"meta": RunMeta(sample_size=4)},
            {"idempotency_key": "k"},
            {"scope_id": "s"},
            SCOPED,
        ],
        ids=str,
    )
    async def test_other_values_under_one_are_told_apart_and_stored_nowhere(
        self, changed: dict[str, Any], store: RunStore, runs_database: Database, call: str
    ) -> None:
        first = await create(store, request_id=call)
        again = await create(store, request_id=call, **changed)
        assert (again.run.id, again.same_request, again.is_repeat) == (first.run.id, False, True)
        assert await stored_runs(runs_database) == 1

    async def test_values_that_mean_the_same_are_the_same(self, store: RunStore, call: str) -> None:
        first = await create(store, request_id=call)
        again = await create(store, request_id=call, meta=RunMeta(sample_size=3, deadline_seconds=600))
        assert (again.run.id, again.same_request) == (first.run.id, True)

    async def test_each_project_has_its_own(self, store: RunStore, call: str) -> None:
        mine, theirs = [await create(store, request_id=call, project_id=project) for project in ("p", "q")]
        assert theirs.is_new
        assert mine.run.id != theirs.run.id

    @each_end
    async def test_a_call_that_found_a_run_goes_on_finding_it(
        self, status: Run.Status.ValueType, store: RunStore, call: str
    ) -> None:
        there = await create(store)
        found = await create(store, request_id=call)
        assert (found.run.id, found.created) == (there.run.id, False)
        await end(store, there.run, status)
        again = await create(store, request_id=call)
        assert (again.run.id, again.created, again.same_request) == (there.run.id, False, True)

    async def test_a_call_that_was_refused_for_its_key_is_not_recorded(
        self, store: RunStore, runs_database: Database, call: str
    ) -> None:
        there = await create(store, idempotency_key="k")
        wanted = {"request_id": call, "idempotency_key": "k", "playbook_id": "missing_seo_description"}
        refused = await create(store, **wanted)
        assert (refused.run.id, refused.same_request, refused.is_repeat) == (there.run.id, False, False)
        assert await calls(runs_database) == 0
        await end(store, there.run, Run.FAILED)
        assert (await create(store, **wanted)).is_new

    @each_kind
    async def test_concurrent_attempts_over_two_replicas_make_one_run(
        self, fields: dict[str, Any], store: RunStore, other: RunStore, runs_database: Database, call: str
    ) -> None:
        batches = [[new_run(request_id=call, **fields) for _ in range(n % 3 + 1)] for n in range(60)]
        attempts = ((store, other)[n % 2].create(batch) for n, batch in enumerate(batches))
        async with asyncio.timeout(20):
            stored = [outcome for outcomes in await asyncio.gather(*attempts) for outcome in outcomes]
        assert len({outcome.run.id for outcome in stored}) == 1
        assert Counter(outcome.is_new for outcome in stored) == {True: 1, False: 119}
        assert all(outcome.created and outcome.same_request for outcome in stored)
        assert await stored_runs(runs_database) == 1

    async def test_any_number_of_attempts_in_one_batch_make_one_run(
        self, store: RunStore, runs_database: Database, call: str
    ) -> None:
        there = await create(store, idempotency_key="k")
        other = str(uuid4())
        refused = {"idempotency_key": "k", "playbook_id": "missing_seo_description"}
        batch = [new_run(request_id=call) for _ in range(100)]
        batch += [new_run(request_id=other, meta=RunMeta(sample_size=n % 50 + 1), **refused) for n in range(99)]
        batch += [new_run(request_id=other, idempotency_key="free")]
        stored = await store.create(batch)
        assert {outcome.run.id for outcome in stored[:100]} == {stored[0].run.id}
        assert all(outcome.created and outcome.same_request for outcome in stored[:100])
        assert {(outcome.run.id, outcome.same_request) for outcome in stored[100:199]} == {(there.run.id, False)}
        assert stored[-1].is_new
        assert await stored_runs(runs_database) == 3

    async def test_concurrent_calls_that_ask_for_the_same_share_its_run(
        self, store: RunStore, other: RunStore, runs_database: Database
    ) -> None:
        wanted = [new_run(request_id=str(uuid4())) for _ in range(60)]
        async with asyncio.timeout(20):
            stored = await asyncio.gather(*((store, other)[n % 2].create([new]) for n, new in enumerate(wanted)))
        created = [outcome for (outcome,) in stored if outcome.created]
        assert {outcome.run.id for (outcome,) in stored} == {outcome.run.id for outcome in created}
        assert len(created) == await stored_runs(runs_database) == 1
        await end(store, created[0].run, Run.FAILED)
        again = await other.create(wanted)
        assert [(outcome.run.id, outcome.created) for outcome in again] == [
            (outcome.run.id, outcome.created) for (outcome,) in stored
        ]

    async def test_batches_in_any_order_with_calls_keys_and_neither_do_not_block_each_other(
        self, store: RunStore, other: RunStore, runs_database: Database
    ) -> None:
        ids = [str(uuid4()) for _ in range(20)]

        def batch(n: int) -> list[NewRun]:
            named = [new_run(request_id=ids[i], idempotency_key=f"k{i % 7}") for i in range(20)]
            plain = [new_run(idempotency_key=f"k{i}") for i in range(10)]
            mixed = [*named, *plain]
            return mixed[n:] + mixed[:n] if n % 2 else mixed[::-1]

        batches = [batch(n) for n in range(20)]
        async with asyncio.timeout(30):
            results = await asyncio.gather(*((store, other)[n % 2].create(b) for n, b in enumerate(batches)))
        for wanted, outcomes in zip(batches, results, strict=True):  # each outcome stands at its request's place
            assert [outcome.run.idempotency_key for outcome in outcomes] == [new.run.idempotency_key for new in wanted]
        found = [outcome for outcomes in results for outcome in outcomes]
        assert len({outcome.run.id for outcome in found}) == sum(outcome.is_new for outcome in found) == 10
        assert (await stored_runs(runs_database), await calls(runs_database)) == (10, 20)

    async def test_a_key_that_is_freed_and_taken_all_the_time_still_gets_an_answer(
        self, store: RunStore, other: RunStore, runs_database: Database
    ) -> None:
        done = asyncio.Event()

        async def end_runs() -> None:
            while not done.is_set():
                queued = await rows(runs_database, "SELECT id FROM runs.runs WHERE status = 'QUEUED'")
                await other.history.apply_events([event(str(row.id), 1, Run.FAILED) for row in queued], NOW)
                await asyncio.sleep(0)

        ending = asyncio.create_task(end_runs())
        wanted = [new_run(request_id=str(uuid4()), idempotency_key="k") for _ in range(100)]
        first = await asyncio.gather(*(store.create([new]) for new in wanted))
        again = await asyncio.gather(*(store.create([new]) for new in wanted))
        done.set()
        await ending
        assert [(one.run.id, one.created) for (one,) in first] == [(one.run.id, one.created) for (one,) in again]
        assert sum(one.created for (one,) in first) == await stored_runs(runs_database)

    async def test_a_run_that_is_deleted_takes_its_calls_along(
        self, store: RunStore, runs_database: Database, call: str
    ) -> None:
        await create(store, request_id=call)
        await create(store, request_id=str(uuid4()))
        await runs_database.execute("DELETE FROM runs.runs")
        assert await calls(runs_database) == 0
        assert (await create(store, request_id=call)).is_new

    async def test_a_call_that_fails_leaves_nothing_behind(
        self, store: RunStore, runs_database: Database, call: str
    ) -> None:
        bad = new_run(request_id=call)
        bad.run.scope_id = "\0"
        with pytest.raises(Exception, match="0x00"):
            await store.create([bad])
        assert (await stored_runs(runs_database), await calls(runs_database)) == (0, 0)
        assert (await create(store, request_id=call)).is_new


async def test_runs_without_a_call_are_one_statement_and_name_none(
    runs_database_url: str, runs_database: Database
) -> None:
    counting = Counting(runs_database_url, pool_size=2, application_name="counting")
    store = RunStore(counting, reconcile_after=LATER)
    await store.create([new_run(idempotency_key=str(n)) for n in range(50)])
    assert (counting.statements, counting.transactions) == (1, 0)
    assert await calls(runs_database) == 0
    await counting.close()
