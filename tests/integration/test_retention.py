"""Retention deletes what is too old, a batch at a time, and nothing else; its watchers get an error."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2 import WatchRunsResponse

from executor_service.retention import ExecutorRetention
from runs_service.queries import RunQueries
from runs_service.retention import RunRetention
from runs_service.store import Filters, RunStore
from runs_service.watching.hub import Watchers
from runs_service.watching.project_stream import ProjectStream
from runs_service.watching.projects import ProjectWatchers
from runs_service.watching.stream import RunStream
from servicekit.background.tasks import running
from servicekit.errors import Reason, ServiceError
from servicekit.ids import first_uuid7, uuid7
from servicekit.postgres.database import Database
from tests.support.database import rows
from tests.support.executor import Bench, FakeClock
from tests.support.runs import TERMINAL, event, new_run
from tests.support.waiting import eventually

DAYS = {"SUCCEEDED": 90, "FAILED": 180, "STALE": 90, "CANCELLED": 30}
STATUS = Run.Status.Name


class Keeper:
    """A store of runs that were made now, and a retention whose clock can be moved on."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.store = RunStore(database, reconcile_after=timedelta(hours=1))
        self.queries = RunQueries(self.store)
        self.clock = FakeClock(datetime.now(UTC))

    async def create(self, status: Run.Status.ValueType = Run.QUEUED, **fields: Any) -> Run:
        fields = {"idempotency_key": uuid7()} | fields
        (stored,) = await self.store.runs.create([new_run(datetime.now(UTC), **fields)])
        if status == Run.QUEUED:
            return stored.run
        run_id, project = stored.run.id, stored.run.project_id
        changes = [event(run_id, 1, Run.RUNNING, project_id=project)]
        if status != Run.RUNNING:
            changes.append(event(run_id, 2, status, project_id=project))
        return (await self.store.history.apply_events(changes, self.clock.now())).history[-1]

    async def after(self, days: float, *, batch: int = 500, kept: dict[str, int] | None = None) -> None:
        """Delete what is due in so many days."""
        self.clock.advance(timedelta(days=days))
        ages = {status: timedelta(days=number) for status, number in (kept or DAYS).items()}
        await RunRetention(self.store, self.clock, kept=ages, batch=batch).tick()

    async def kept(self) -> set[str]:
        return {str(row.id) for row in await rows(self.database, "SELECT id FROM runs.runs")}

    async def count(self, table: str) -> int:
        return int((await rows(self.database, f"SELECT count(*) AS n FROM runs.{table}"))[0].n)


@pytest.fixture
def keeper(runs_database: Database) -> Keeper:
    return Keeper(runs_database)


async def test_runs_are_deleted_by_their_status_and_those_that_have_not_ended_never(keeper: Keeper) -> None:
    runs = {status: await keeper.create(status) for status in (Run.QUEUED, Run.RUNNING, *TERMINAL)}
    ids = {STATUS(status): run.id for status, run in runs.items()}

    def those_but(*statuses: str) -> set[str]:
        return {run_id for status, run_id in ids.items() if status not in statuses}

    await keeper.after(29)
    assert await keeper.kept() == those_but()
    await keeper.after(2)
    assert await keeper.kept() == those_but("CANCELLED")
    await keeper.after(60)
    assert await keeper.kept() == those_but("CANCELLED", "SUCCEEDED", "STALE")
    await keeper.after(3650)
    assert await keeper.kept() == {ids["QUEUED"], ids["RUNNING"]}
    assert await keeper.count("run_events") == 1 + 2


async def test_no_table_of_ages_deletes_a_run_that_has_not_ended(keeper: Keeper) -> None:
    runs = {(await keeper.create(status)).id for status in (Run.QUEUED, Run.RUNNING)}
    await keeper.after(3650, kept={"QUEUED": 1, "RUNNING": 1})
    assert await keeper.kept() == runs


async def test_a_status_that_is_kept_for_ever_is_passed_over(keeper: Keeper) -> None:
    failed = await keeper.create(Run.FAILED)
    await keeper.create(Run.SUCCEEDED)
    await keeper.after(3650, kept={"SUCCEEDED": 1})
    assert await keeper.kept() == {failed.id}


async def test_many_batches_of_a_round_reach_all_that_is_due_and_pass_over_what_stays(keeper: Keeper) -> None:
    runs = [await keeper.create((Run.FAILED, Run.CANCELLED, Run.QUEUED)[n % 3]) for n in range(20)]
    await keeper.after(31, batch=3)
    assert await keeper.kept() == {run.id for run in runs if run.status != Run.CANCELLED}


async def test_a_run_whose_cancel_is_not_delivered_stays(keeper: Keeper) -> None:
    run = await keeper.create()
    await keeper.store.history.cancel_queued([run.id], keeper.clock.now())
    await keeper.after(365)
    assert await keeper.kept() == {run.id}
    await keeper.store.stops.mark_delivered([run.id])
    await keeper.after(0)
    assert await keeper.kept() == set()


async def test_a_deleted_run_frees_its_key_and_its_call(keeper: Keeper) -> None:
    fields = {"idempotency_key": "k", "request_id": "3f0a1c52-6f0e-4a5e-9a53-1d2f8f1f7c11"}
    old = await keeper.create(Run.SUCCEEDED, **fields)
    (again,) = await keeper.store.create([new_run(**fields)])
    assert again.run.id == old.id
    await keeper.after(91)
    (new,) = await keeper.store.create([new_run(**fields)])
    assert new.created
    assert new.run.id != old.id
    assert await keeper.count("calls") == 1


async def test_nobody_waits_for_a_deletion_nor_a_deletion_for_anybody(keeper: Keeper, runs_database_url: str) -> None:
    held, _ = await keeper.create(Run.FAILED), await keeper.create(Run.FAILED)
    async with await psycopg.AsyncConnection.connect(runs_database_url) as connection, asyncio.timeout(10):
        await connection.execute("SELECT FROM runs.runs WHERE id = %s FOR KEY SHARE", [held.id])
        await keeper.after(181)
        assert await keeper.kept() == {held.id}
    await keeper.after(0)
    assert await keeper.kept() == set()


async def test_one_process_at_a_time_deletes(keeper: Keeper, runs_database_url: str) -> None:
    run = await keeper.create(Run.FAILED)
    async with await psycopg.AsyncConnection.connect(runs_database_url) as connection, asyncio.timeout(10):
        await connection.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended('playbook-runs: retention of runs', 0))"
        )
        await keeper.after(181)
        assert await keeper.kept() == {run.id}
    await keeper.after(0)
    assert await keeper.kept() == set()


async def test_page_tokens_go_on_behind_what_was_deleted(keeper: Keeper) -> None:
    for _ in range(3):
        await keeper.create(Run.CANCELLED)
    kept = [await keeper.create(Run.FAILED) for _ in range(4)]
    newest = [await keeper.create(Run.CANCELLED) for _ in range(2)]
    filters = Filters("p")
    first, token = await keeper.queries.page(filters, limit=2, offset=0, page_token="")
    assert [run.id for run in first] == [newest[1].id, newest[0].id]
    await keeper.after(31)
    second, token = await keeper.queries.page(filters, limit=3, offset=0, page_token=token)
    last, end = await keeper.queries.page(filters, limit=3, offset=0, page_token=token)
    assert [run.id for run in (*second, *last)] == [run.id for run in reversed(kept)]
    assert not end


async def test_an_event_of_a_deleted_run_changes_nothing(keeper: Keeper) -> None:
    run = await keeper.create(Run.FAILED)
    await keeper.after(181)
    changed = await keeper.store.history.apply_events([event(run.id, 3, Run.SUCCEEDED)], keeper.clock.now())
    assert (changed.history, changed.foreign, await keeper.kept()) == ([], [], set())


# Watchers


@pytest.fixture
async def watchers(keeper: Keeper) -> AsyncIterator[Watchers]:
    watchers = Watchers(keeper.store.history, poll=0.05)
    async with running(watchers):
        yield watchers


async def test_a_watcher_of_a_deleted_run_gets_not_found(keeper: Keeper, watchers: Watchers) -> None:
    """Also one whose run ended and was deleted before this process received its end."""
    run, sent = await keeper.create(Run.RUNNING), []

    async def write(message: Any) -> None:
        sent.append(message)

    stream = RunStream(keeper.queries, watchers)
    watching = asyncio.create_task(stream.serve("p", run.id, after=None, write=write))
    await eventually(lambda: bool(sent))
    await keeper.database.execute("DELETE FROM runs.runs WHERE id = CAST(%(id)s AS uuid)", {"id": run.id})
    await ends(watching, Reason.RUN_NOT_FOUND)
    with pytest.raises(ServiceError) as refused:
        await stream.serve("p", run.id, after=1, write=write)
    assert refused.value.reason is Reason.RUN_NOT_FOUND


async def test_a_position_from_before_what_was_deleted_has_expired_and_a_new_one_goes_on(keeper: Keeper) -> None:
    async with running(watchers := ProjectWatchers(keeper.store.changes, poll=0.05)):
        stream = ProjectStream(keeper.store, watchers)
        before = await position_of(stream)
        await keeper.create(Run.CANCELLED)
        after = await position_of(stream)
        await keeper.after(31)
        sent: list[WatchRunsResponse] = []

        async def write(message: WatchRunsResponse) -> None:
            sent.append(message)

        await ends(asyncio.create_task(stream.serve(Filters("p"), after=before, write=write)), Reason.POSITION_EXPIRED)
        going_on = asyncio.create_task(stream.serve(Filters("p"), after=after, write=write))
        run = await keeper.create()
        watchers.wake([run])
        await eventually(lambda: run.id in [message.run.id for message in sent])
        going_on.cancel()
        await asyncio.wait([going_on])


async def position_of(stream: ProjectStream) -> str:
    """Return the position that a new watcher gets with its list."""
    sent: list[WatchRunsResponse] = []

    async def write(message: WatchRunsResponse) -> None:
        sent.append(message)

    watching = asyncio.create_task(stream.serve(Filters("p"), after="", write=write))
    await eventually(lambda: any(message.kind == WatchRunsResponse.BOOKMARK for message in sent))
    watching.cancel()
    await asyncio.wait([watching])
    return sent[-1].position


async def ends(watching: asyncio.Task[None], reason: Reason) -> None:
    with pytest.raises(ServiceError) as ended:
        async with asyncio.timeout(10):
            await watching
    assert ended.value.reason is reason


# The executor


async def executor_after(bench: Bench, days: float, **sizes: int) -> None:
    """Delete what is due in so many days, at 90 days."""
    clock = FakeClock(datetime.now(UTC) + timedelta(days=days))
    await ExecutorRetention(bench.database, clock, kept=timedelta(days=90), **sizes).tick()


async def executions(bench: Bench, *states: tuple[str, int, int]) -> list[str]:
    """Insert executions of runs made now, each with an item block: (status, event_number, published_number)."""
    ids = [uuid7() for _ in states]
    for run_id, (status, number, published) in zip(ids, states, strict=True):
        await bench.database.execute(
            """
            WITH run AS (
              INSERT INTO executor.executions
                (run_id, project_id, run_type, job, status, event_number, published_number)
              VALUES (CAST(%(id)s AS uuid), 'p', 'APPLY', '', %(status)s, %(number)s, %(published)s))
            INSERT INTO executor.run_item_blocks VALUES (CAST(%(id)s AS uuid), 'a', '{a}', '{UPDATED}', '{""}')""",
            {"id": run_id, "status": status, "number": number, "published": published},
        )
    return ids


async def ids_in(bench: Bench, table: str) -> set[str]:
    return {str(run_id) for (run_id,) in await bench.rows(f"SELECT run_id FROM executor.{table}")}


async def test_executions_go_with_their_items_once_they_have_ended_and_are_published(bench: Bench) -> None:
    ids = await executions(
        bench, ("SUCCEEDED", 2, 2), ("QUEUED", 0, 0), ("FAILED", 3, 2), ("CANCELLED", 1, 1), ("RUNNING", 1, 1)
    )
    await executor_after(bench, 89)
    assert await ids_in(bench, "executions") == set(ids)
    await executor_after(bench, 91, batch=2)
    assert await ids_in(bench, "executions") == await ids_in(bench, "run_item_blocks") == {ids[1], ids[2], ids[4]}


async def test_drafts_go_with_their_items_when_they_expired_long_ago(bench: Bench) -> None:
    await bench.stock(3)
    async with bench.working():
        await bench.preview()
        await bench.preview(playbook_id="missing_seo_description")
    await bench.database.execute(
        "UPDATE executor.drafts SET expires_at = now() WHERE playbook_id = 'missing_seo_title'"
    )
    await bench.database.execute(
        "UPDATE executor.drafts SET expires_at = now() + interval '7 days' WHERE playbook_id <> 'missing_seo_title'"
    )
    await executor_after(bench, 89)
    assert await bench.value("SELECT count(*) FROM executor.drafts") == 2
    await executor_after(bench, 91)
    assert await bench.rows("SELECT playbook_id FROM executor.drafts") == [("missing_seo_description",)]
    assert await bench.value("SELECT count(*) FROM executor.draft_items") == 3


async def test_suggestions_go_by_their_last_use_and_one_in_use_is_never_paid_again(bench: Bench) -> None:
    await bench.stock(4)
    async with bench.working():
        preview = await bench.preview(sample=2)
        await bench.draft(preview)
        assert bench.provider.asked.total() == 4
        await bench.database.execute("UPDATE executor.suggestions SET used_at = now() - interval '80 days'")
        await bench.preview(sample=2)  # uses two of them
        await executor_after(bench, 20, suggestions=1)
        assert await bench.value("SELECT count(*) FROM executor.suggestions") == 2
        await bench.preview(sample=2)
        assert bench.provider.asked.total() == 4


async def test_the_use_of_a_suggestion_is_noted_once_a_day(bench: Bench) -> None:
    await bench.stock(2)

    async def uses() -> list[datetime]:
        return [used_at for (used_at,) in await bench.rows("SELECT used_at FROM executor.suggestions ORDER BY 1")]

    async with bench.working():
        await bench.preview()
        first = await uses()
        await bench.preview()
        assert await uses() == first
        await bench.database.execute("UPDATE executor.suggestions SET used_at = now() - interval '25 hours'")
        await bench.preview()
        assert min(await uses()) > first[-1]


@pytest.mark.parametrize("moment", [datetime(2026, 5, 4, tzinfo=UTC), datetime(1970, 1, 1, tzinfo=UTC)])
def test_the_first_id_of_a_moment_is_no_larger_than_any_made_then(moment: datetime) -> None:
    first = first_uuid7(moment)
    assert len(first) == 36
    assert first < uuid7()
    assert first_uuid7(moment + timedelta(milliseconds=1)) > first


def test_ids_made_now_lie_between_the_first_ones_of_before_and_after() -> None:
    made: Iterable[str] = sorted(uuid7() for _ in range(10))
    now = datetime.now(UTC)
    assert first_uuid7(now - timedelta(seconds=10)) < min(made) < max(made) < first_uuid7(now + timedelta(seconds=10))
