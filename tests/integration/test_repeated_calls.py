"""Calls that are repeated, over a real PostgreSQL: a request_id, or a retry, leads to one run for ever."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from playbooks.runs.v1.run_pb2 import Run, RunMeta

from runs_service import messages
from runs_service.messages import NewRun
from runs_service.queries import RunQueries
from runs_service.store import Filters, RunStore, Stored
from servicekit.ids import uuid7
from servicekit.postgres.database import Connection, Database
from tests.support.database import rows
from tests.support.runs import NOW, TERMINAL, event, new_run

LATER = timedelta(hours=1)
SCOPED = {"run_type": Run.DRAFT_GENERATE, "scope_id": "s", "rules_hash": "h"}
APPLY = SCOPED | {"run_type": Run.APPLY}
each_kind = pytest.mark.parametrize(
    "fields", [{}, {"idempotency_key": "k"}, SCOPED, APPLY], ids=["bare preview", "key", "draft", "apply"]
)
each_end = pytest.mark.parametrize("status", TERMINAL, ids=Run.Status.Name)


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
def store(runs_database: Database) -> RunStore:
    return RunStore(runs_database, reconcile_after=LATER)


@pytest.fixture
async def other(runs_database_url: str) -> AsyncIterator[RunStore]:
    """The store of another replica."""
    database = Database(runs_database_url, pool_size=5, application_name="other")
    yield RunStore(database, reconcile_after=LATER)
    await database.close()


@pytest.fixture
def call() -> str:
    return str(uuid4())


async def create(store: RunStore, **fields: Any) -> Stored:
    (stored,) = await store.create([new_run(**fields)])
    return stored


async def end(store: RunStore, run: Run, status: Run.Status.ValueType) -> None:
    await store.history.apply_events([event(run.id, 1, status, project_id=run.project_id)], NOW)


async def retry_of(store: RunStore, run: Run, key: str | None = None) -> NewRun:
    original = await store.runs.original(run.project_id, run.id)
    assert original
    return messages.retry(original[0], key=key, run_id=uuid7(), user_id="u", request_id="r", now=NOW)


async def retry(store: RunStore, run: Run, key: str | None = None) -> Stored:
    (stored,) = await store.create([await retry_of(store, run, key)])
    return stored


async def calls(database: Database) -> int:
    return len(await rows(database, "SELECT 1 FROM runs.calls"))


async def stored_runs(database: Database) -> int:
    return len(await rows(database, "SELECT 1 FROM runs.runs"))


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


class TestRetry:
    @each_end
    @each_kind
    async def test_a_run_has_one_retry_whatever_becomes_of_it(
        self, fields: dict[str, Any], status: Run.Status.ValueType, store: RunStore, other: RunStore
    ) -> None:
        failed = await create(store, **fields)
        await end(store, failed.run, Run.FAILED)
        first = await retry(store, failed.run)
        assert (first.created, first.run.retry_of) == (True, failed.run.id)
        await end(store, first.run, status)
        for replica in (store, other):
            again = await retry(replica, failed.run)
            assert (again.run.id, again.run.status, again.created) == (first.run.id, status, False)
            assert again.same_request

    async def test_the_newest_of_the_chain_gets_another_one(self, store: RunStore, runs_database: Database) -> None:
        newest = (await create(store)).run
        for _ in range(4):
            await end(store, newest, Run.FAILED)
            following = await retry(store, newest)
            assert (following.created, following.run.retry_of) == (True, newest.id)
            newest = following.run
        assert await stored_runs(runs_database) == 5

    async def test_another_key_makes_no_other_retry(self, store: RunStore, runs_database: Database) -> None:
        stale = await create(store, **APPLY)
        await end(store, stale.run, Run.STALE)
        first = await retry(store, stale.run, "a")
        assert (first.created, first.run.idempotency_key) == (True, "a")
        for key in ("b", "a", None):
            again = await retry(store, stale.run, key)
            assert (again.run.id, again.created, again.same_request) == (first.run.id, False, True)
        assert await stored_runs(runs_database) == 2

    async def test_concurrent_retries_over_two_replicas_make_one_run(
        self, store: RunStore, other: RunStore, runs_database: Database
    ) -> None:
        failed = await create(store)
        await end(store, failed.run, Run.CANCELLED)
        wanted = [await retry_of(store, failed.run, key=f"k{n}" if n % 2 else None) for n in range(60)]
        async with asyncio.timeout(20):
            stored = await asyncio.gather(*((store, other)[n // 2 % 2].create([new]) for n, new in enumerate(wanted)))
        assert len({outcome.run.id for (outcome,) in stored}) == 1
        assert Counter(outcome.created for (outcome,) in stored) == {True: 1, False: 59}
        assert await stored_runs(runs_database) == 2

    async def test_the_same_request_made_meanwhile_counts_as_the_retry(self, store: RunStore) -> None:
        failed = await create(store)
        await end(store, failed.run, Run.FAILED)
        made = await create(store)
        found = await retry(store, failed.run)
        assert (found.run.id, found.created) == (made.run.id, False)
        await end(store, made.run, Run.FAILED)
        assert (await retry(store, failed.run)).run.id == made.run.id

    async def test_a_retry_whose_key_stands_for_another_request_is_not_recorded(self, store: RunStore) -> None:
        failed = await create(store)
        await end(store, failed.run, Run.FAILED)
        other = await create(store, idempotency_key="k", playbook_id="missing_seo_description")
        refused = await retry(store, failed.run, "k")
        assert (refused.run.id, refused.created, refused.same_request) == (other.run.id, False, False)
        assert (await retry(store, failed.run)).created


async def test_runs_without_a_call_are_one_statement_and_name_none(
    runs_database_url: str, runs_database: Database
) -> None:
    counting = Counting(runs_database_url, pool_size=2, application_name="counting")
    store = RunStore(counting, reconcile_after=LATER)
    await store.create([new_run(idempotency_key=str(n)) for n in range(50)])
    assert (counting.statements, counting.transactions) == (1, 0)
    assert await calls(runs_database) == 0
    await counting.close()


class TestFindingARetry:
    async def test_a_run_leads_to_what_counts_as_its_retry(self, store: RunStore, other: RunStore) -> None:
        queries = RunQueries(other)
        first = await create(store, **SCOPED)
        await create(store)

        async def found(run: Run, **more: str) -> list[str]:
            filters = Filters("p", retry_of=run.id, **more)
            runs, token = await queries.page(filters, limit=1, offset=0, page_token="")
            assert token == ""
            return [one.id for one in runs]

        assert await found(first.run) == []
        await end(store, first.run, Run.FAILED)
        second = await retry(store, first.run)
        await end(store, second.run, Run.CANCELLED)
        third = await create(store, **SCOPED)  # the same content: the retry of the second is this one
        assert (await retry(store, second.run)).run.id == third.run.id
        assert [await found(run) for run in (first.run, second.run, third.run)] == [[second.run.id], [third.run.id], []]
        assert await found(first.run, status="CANCELLED", run_type="DRAFT_GENERATE") == [second.run.id]
        assert await found(first.run, status="FAILED") == []
        assert await found(first.run, scope_id="other") == []
        elsewhere, _ = await queries.page(Filters("q", retry_of=first.run.id), limit=1, offset=0, page_token="")
        assert elsewhere == []
