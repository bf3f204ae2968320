"""Retries that are repeated, over a real PostgreSQL: a run has one retry for ever."""

import asyncio
from collections import Counter
from typing import Any

from playbooks.runs.v1.run_pb2 import Run

from runs_service.queries import RunQueries
from runs_service.store import Filters, RunStore
from servicekit.postgres.database import Database
from tests.support.repeated_calls import APPLY, SCOPED, create, each_end, each_kind, end, retry, retry_of, stored_runs
from tests.support.run_stores import other, store

__all__ = ["other", "store"]  # fixtures


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
