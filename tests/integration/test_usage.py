"""What a project's runs were and cost, by day: exact at any moment, also while several processes end runs and fold."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from playbooks.executor.v1.job_pb2 import RunEvent
from playbooks.runs.v1.run_pb2 import AiUsage, Run
from playbooks.runs.v1.runs_service_pb2 import GetUsageResponse

from runs_service.store import RunStore
from runs_service.usage import UsageFolder, UsageReports
from servicekit.background.tasks import running
from servicekit.errors import ServiceError
from servicekit.postgres.database import Database
from tests.support.database import rows
from tests.support.executor import FakeClock
from tests.support.runs import NOW, event, new_run
from tests.support.waiting import eventually

TODAY = NOW.date()
COST = AiUsage(requests=2, suggestions=3, reused=4, input_tokens=500, cached_input_tokens=60, output_tokens=7)
DRAFT = {"run_type": Run.DRAFT_GENERATE, "scope_id": "s", "rules_hash": "h"}
APPLY = {"run_type": Run.APPLY, "scope_id": "s", "rules_hash": "h"}


@pytest.fixture
def store(runs_database: Database) -> RunStore:
    return RunStore(runs_database, reconcile_after=timedelta(hours=1))


@pytest.fixture
async def other(runs_database_url: str) -> AsyncIterator[RunStore]:
    """The store of another replica."""
    database = Database(runs_database_url, pool_size=5, application_name="other")
    yield RunStore(database, reconcile_after=timedelta(hours=1))
    await database.close()


async def made(store: RunStore, count: int = 1, **fields: Any) -> list[str]:
    """Make runs; return their ids."""
    wanted = [new_run(idempotency_key=f"{fields}{n}", **fields) for n in range(count)]
    return [stored.run.id for stored in await store.runs.create(wanted)]


def end(
    run_id: str,
    status: Run.Status.ValueType = Run.SUCCEEDED,
    *,
    days_ago: int = 0,
    at: datetime | None = None,
    cost: AiUsage | None = COST,
    **fields: Any,
) -> RunEvent:
    finished = Timestamp()
    finished.FromDatetime(at or NOW - timedelta(days=days_ago))
    return event(run_id, 5, status, finished_at=finished, ai_used=cost is not None, ai_usage=cost, **fields)


async def apply(store: RunStore, *events: RunEvent) -> None:
    await store.history.apply_events(events, NOW)


async def report(store: RunStore, first: str = "", last: str = "", *, project: str = "p") -> GetUsageResponse:
    return await UsageReports(store, FakeClock(NOW)).report(project, first, last)


def counted(response: GetUsageResponse) -> list[tuple[str, str, int, int, int]]:
    return [
        (day.day, Run.Type.Name(day.run_type), day.runs, day.ai_runs, day.ai_usage.input_tokens)
        for day in response.days
    ]


async def test_runs_count_on_the_day_they_ended_by_type_however_they_did(store: RunStore) -> None:
    previews = await made(store, 5)
    (draft,) = await made(store, **DRAFT)
    (application,) = await made(store, **APPLY)
    (foreign,) = await made(store, project_id="q")
    await apply(
        store,
        end(previews[0]),
        end(previews[1], Run.FAILED, days_ago=1),
        event(previews[2], 1, Run.RUNNING, ai_usage=COST),
        end(draft, Run.STALE, cost=None),
        end(application, cost=None),
        end(foreign, project_id="q"),
    )
    await store.history.cancel_queued([previews[3]], NOW)
    today, yesterday = TODAY.isoformat(), (TODAY - timedelta(days=1)).isoformat()
    response = await report(store)
    assert counted(response) == [
        (yesterday, "PREVIEW_GENERATE", 1, 1, 500),
        (today, "APPLY", 1, 0, 0),
        (today, "DRAFT_GENERATE", 1, 0, 0),
        (today, "PREVIEW_GENERATE", 2, 1, 500),
    ]
    summary = response.summary
    assert (summary.total_runs, summary.ai_runs, summary.applies_with_ai) == (5, 2, 0)
    assert (summary.previews, summary.drafts, summary.applies) == (3, 1, 1)
    assert summary.ai_usage == AiUsage(
        requests=4, suggestions=6, reused=8, input_tokens=1_000, cached_input_tokens=120, output_tokens=14
    )


async def test_a_day_ends_at_midnight_utc_and_a_run_counts_on_the_day_of_its_end(store: RunStore) -> None:
    midnight = datetime(2026, 5, 4, tzinfo=UTC)
    *before, at, over = await made(store, 4, now=midnight - timedelta(hours=2))
    started = Timestamp()
    started.FromDatetime(midnight - timedelta(hours=1))
    await apply(
        store,
        *(end(run_id, at=midnight - timedelta(microseconds=1)) for run_id in before),
        end(at, at=midnight),
        event(over, 1, Run.RUNNING, started_at=started, ai_usage=COST),  # most of its cost is of the day before
    )
    await apply(store, end(over, at=midnight + timedelta(hours=1), started_at=started))
    days = [("2026-05-03", "PREVIEW_GENERATE", 2, 2, 1_000), ("2026-05-04", "PREVIEW_GENERATE", 2, 2, 1_000)]
    clock = FakeClock(midnight - timedelta(microseconds=1))
    reports = UsageReports(store, clock)
    assert counted(await reports.report("p", "", "")) == days[:1]  # up to today, which is the day before still
    clock.advance(timedelta(microseconds=1))
    assert counted(await reports.report("p", "", "")) == days


async def test_a_run_counts_once_when_two_replicas_report_its_end_repeatedly(store: RunStore, other: RunStore) -> None:
    (run_id,) = await made(store)
    await apply(other, event(run_id, 1, Run.RUNNING))
    await asyncio.gather(apply(store, end(run_id)), apply(other, end(run_id)))
    late = end(run_id)
    late.number = 9  # written once more, for its number
    await apply(store, late)
    await store.history.fail_overdue([run_id], NOW)
    assert (await report(store)).summary.total_runs == 1


async def test_folding_changes_no_report_and_deleted_runs_stay_counted(
    store: RunStore, runs_database: Database
) -> None:
    run_ids = await made(store, 7)
    for run_id in run_ids:
        await apply(store, end(run_id))
    before = await report(store)
    async with running(UsageFolder(store, batch=3)):
        await eventually(lambda: _is_empty(runs_database))
    assert await report(store) == before
    assert await rows(runs_database, "SELECT runs FROM runs.usage_daily") == [(7,)]
    await runs_database.execute("DELETE FROM runs.runs")
    assert await report(store) == before


async def _is_empty(database: Database) -> bool:
    return not await rows(database, "SELECT 1 FROM runs.usage_increments")


async def test_nothing_is_lost_while_two_processes_end_runs_and_fold(store: RunStore, other: RunStore) -> None:
    projects = [f"p{n}" for n in range(4)]
    run_ids = {project: await made(store, 12, project_id=project) for project in projects}
    seen: list[int] = []

    async def ending(project: str) -> None:
        for n, run_id in enumerate(run_ids[project]):
            await apply((store, other)[n % 2], end(run_id, project_id=project))

    async def folding(one: RunStore) -> None:
        while not done.is_set():
            await one.usage.fold(limit=3)

    async def reading() -> None:
        while not done.is_set():
            seen.append((await report(store, project="p0")).summary.total_runs)

    done = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for one in (store, other, other):
            tasks.create_task(folding(one))
        tasks.create_task(reading())
        await asyncio.gather(*(ending(project) for project in projects))
        done.set()
    assert seen == sorted(seen)  # a run that was counted is never missing again
    for project in projects:
        summary = (await report(store, project=project)).summary
        assert (summary.total_runs, summary.ai_usage.output_tokens) == (12, 84)


async def test_a_range_has_both_its_ends_and_30_days_by_default(store: RunStore) -> None:
    for days_ago, run_id in enumerate(await made(store, 32)):
        await apply(store, end(run_id, days_ago=days_ago))
    response = await report(store)
    assert (getattr(response, "from"), response.to) == ("2026-04-05", "2026-05-04")
    assert response.summary.total_runs == len(response.days) == 30
    assert (await report(store, "2026-05-03", "2026-05-04")).summary.total_runs == 2
    assert (await report(store, "2026-05-04")).summary.total_runs == 1
    assert (await report(store, last="2026-05-01")).summary.total_runs == 29
    assert (await report(store, "2025-05-04", "2026-05-04")).summary.total_runs == 32  # 366 days
    assert getattr(await report(store, last="0001-01-05"), "from") == "0001-01-01"


@pytest.mark.parametrize(
    ("first", "last", "field", "problem"),
    [
        ("2026-05-05", "2026-05-04", "from", "must not be after `to`"),
        ("2025-05-03", "2026-05-04", "from", "at most 365 days before"),
        ("2026-02-30", "", "from", "must be a day such as"),
        ("20260504", "", "from", "must be a day such as"),
        ("2026-W19-1", "", "from", "must be a day such as"),
        ("", "yesterday", "to", "must be a day such as"),
        ("", "٢٠٢٦-05-04", "to", "must be a day such as"),
    ],
)
async def test_a_range_that_is_none_is_refused(
    store: RunStore, first: str, last: str, field: str, problem: str
) -> None:
    with pytest.raises(ServiceError, match=problem) as refusal:
        await report(store, first, last)
    assert [violation.field for violation in refusal.value.violations] == [field]
