"""Deleting all of a project: what each service deletes, what stays, and what arrives too late."""

import asyncio
from collections import Counter
from uuid import uuid4

import pytest
from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2 import WatchRunsResponse

from executor_service import app as executor_app
from executor_service.domain.draft import DraftItem
from executor_service.domain.execution import State, Status
from executor_service.execution.cancellation import Cancellation
from executor_service.purge import Purge as ExecutorPurge
from executor_service.store.deletions import Deletions
from executor_service.store.drafts import Drafts
from runs_service.purge import Purge
from runs_service.store import Filters
from runs_service.watching.project_stream import ProjectStream
from runs_service.watching.projects import ProjectWatchers
from servicekit.background.tasks import running
from servicekit.errors import Reason, ServiceError
from servicekit.postgres.database import Database
from tests.integration.test_stops import Desk, desk_at, executor, executor_settings, unused_address  # noqa: F401
from tests.support.database import plan_of, rows
from tests.support.executor import DESCRIPTIONS, Bench, job
from tests.support.runs import NOW, event, new_run
from tests.support.waiting import eventually

NOTHING = {"executions": 0, "run_item_blocks": 0, "drafts": 0, "draft_items": 0, "suggestions": 0, "products": 0}


def purge(bench: Bench, **options: float) -> ExecutorPurge:
    cancellation = Cancellation(bench.database, bench.leases, bench.publisher)
    return ExecutorPurge(bench.database, cancellation, bench.clock, **options)


async def counts(bench: Bench) -> dict[str, int]:
    return {table: await bench.value(f"SELECT count(*) FROM executor.{table}") for table in NOTHING}


@pytest.fixture
async def two_projects(bench: Bench) -> dict[str, int]:
    """A project "p" that has been worked on, and beside it "other", of which the counts are."""
    for project in ("other", "p"):
        await bench.stock(5, project=project)
        async with bench.working():
            preview = await bench.preview(project=project, sample=2)
            await bench.preview(project=project, playbook_id=DESCRIPTIONS, sample=2)
            await bench.draft(preview, project=project)
            await bench.applied(preview, project=project)
        if project == "other":
            others = await counts(bench)
    return others


async def test_all_of_a_project_goes_and_nothing_of_another(bench: Bench, two_projects: dict[str, int]) -> None:
    purged = await purge(bench).project("p", keep_plan=False)
    assert purged.complete
    assert purged.counts == {"executions": 4, "drafts": 2, "suggestions": 7, "products": 5, "projects": 1}
    assert await counts(bench) == two_projects
    for table, column in (("projects", "id"), ("ai_usage", "project_id")):
        assert await bench.rows(f"SELECT {column} FROM executor.{table}") == [("other",)]
    again = await purge(bench).project("p", keep_plan=False)
    assert (sum(again.counts.values()), again.complete) == (0, True)


async def test_an_owner_keeps_the_plan_and_does_not_begin_a_new_allowance(bench: Bench) -> None:
    await bench.stock(3, limit=5)
    async with bench.working():
        await bench.preview()
    await bench.database.execute("INSERT INTO executor.ai_usage VALUES ('p', '2020-02-02', 7)")
    purged = await purge(bench).project("p", keep_plan=True)
    assert (purged.complete, purged.counts["projects"], await counts(bench)) == (True, 0, NOTHING)
    project = await bench.catalog.project("p")
    assert (project.ai_daily_limit, await bench.ai_used()) == (5, 3)
    assert await bench.value("SELECT count(*) FROM executor.ai_usage") == 1


async def test_a_call_whose_time_is_over_leaves_the_rest_to_the_next(
    bench: Bench, two_projects: dict[str, int]
) -> None:
    total = {"executions": 0, "drafts": 0, "suggestions": 0, "products": 0, "projects": 0}
    calls = 0
    complete = False
    while not complete:
        purged = await purge(bench, budget=-1).project("p", keep_plan=False)
        total = {kind: number + purged.counts.get(kind, 0) for kind, number in total.items()}
        calls, complete = calls + 1, purged.complete
    assert total == {"executions": 4, "drafts": 2, "suggestions": 7, "products": 5, "projects": 1}
    assert calls > 4
    assert await counts(bench) == two_projects


async def test_runs_at_work_are_cancelled_first_and_write_nothing_more(bench: Bench) -> None:
    await bench.stock(4)
    bench.provider.open.clear()
    async with bench.working():
        following = asyncio.create_task(bench.follow(job()))
        await bench.provider.waiting.wait()
        purged = await purge(bench).project("p", keep_plan=False)
        assert (purged.complete, purged.counts["executions"]) == (True, 1)
        bench.provider.open.set()
        states: list[State] = await following
    assert states[-1].status is Status.CANCELLED
    assert await counts(bench) == NOTHING
    assert await bench.value("SELECT count(*) FROM executor.ai_usage") == 0


async def test_what_others_have_is_not_read_for_it(bench: Bench) -> None:
    await bench.database.execute(
        """INSERT INTO executor.executions (run_id, project_id, run_type, job, status, event_number, published_number)
        SELECT gen_random_uuid(), CASE WHEN n <= 3 THEN 'p' ELSE 'other' END, 'APPLY', '',
               CASE n WHEN 1 THEN 'QUEUED' WHEN 2 THEN 'RUNNING' ELSE 'SUCCEEDED' END, 2, 2
        FROM generate_series(1, 5000) AS n"""
    )
    await bench.database.execute("ANALYZE executor.executions")  # or the planner guesses, each time something else
    for statement, found in ((Deletions._ACTIVE, 2), (Deletions._OF_PROJECT["executions"], 1)):
        nodes = await plan_of(bench.database, statement, {"project_id": "p", "limit": 10})
        scans = [node for node in nodes if node.get("Relation Name") == "executions" and "Scan" in node["Node Type"]]
        assert {scan["Node Type"] for scan in scans} <= {"Index Scan", "Index Only Scan"}
        assert sum(scan.get("Rows Removed by Filter", 0) for scan in scans) == 0
        assert max(scan["Actual Rows"] * scan["Actual Loops"] for scan in scans) <= found


async def test_an_execution_that_another_statement_has_locked_is_waited_for(bench: Bench) -> None:
    await bench.stock(3)
    async with bench.working():
        await bench.preview()
    async with bench.database.transaction() as connection:
        await connection.fetch_all("SELECT FROM executor.executions FOR UPDATE", {})
        purging = asyncio.create_task(purge(bench).project("p", keep_plan=False))
        await eventually(lambda: is_locked_out(bench))
        assert not purging.done()
    purged = await purging
    assert (purged.complete, purged.counts["executions"], await counts(bench)) == (True, 1, NOTHING)


async def test_no_item_stays_of_a_draft_that_is_written_while_it_is_deleted(bench: Bench) -> None:
    await bench.stock(3)
    async with bench.working():
        await bench.preview(sample=1)
    page = await bench.latest_draft()
    items = [DraftItem(f"new-{number}", "a text", "a text") for number in range(2)]
    async with bench.database.transaction() as connection:
        await Drafts(connection).put(page.draft, items)
        purging = asyncio.create_task(purge(bench).project("p", keep_plan=False))
        await eventually(lambda: is_locked_out(bench))
    await purging
    assert await counts(bench) == NOTHING


async def is_locked_out(bench: Bench) -> bool:
    """Say whether a statement waits for a lock."""
    return bool(
        await bench.value(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
    )


async def test_a_job_that_arrives_later_ends_without_a_project(bench: Bench) -> None:
    await bench.stock(3)
    await purge(bench).project("p", keep_plan=False)
    async with bench.working():
        state = await bench.execute(job())
    assert (state.status, state.error_code, bench.provider.requests) == (Status.FAILED, "PROJECT_NOT_FOUND", 0)


async def test_a_project_that_gets_products_meanwhile_is_not_torn_from_them(bench: Bench) -> None:
    """What is put between the last batch of products and the project's own row stays, with the project."""
    await bench.stock(2)
    async with bench.database.transaction() as connection:
        assert await Deletions(connection).project("p", keep_plan=False, today=NOW.date()) == 0
    assert len(await bench.titles()) == 2


# Both services


def purge_of(desk: Desk, **options: float) -> Purge:
    return Purge(desk.store, desk.executor, desk.canceller, **options)


async def count(database: Database, table: str, project: str = "p") -> int:
    found = await rows(
        database, f"SELECT count(*) AS n FROM runs.{table} WHERE project_id = %(project)s", project=project
    )
    return int(found[0].n)


async def test_runs_that_have_not_ended_are_cancelled_and_then_all_goes(
    runs_database: Database,
    executor: str,  # noqa: F811
    bench: Bench,
) -> None:
    await bench.stock(3)
    async with desk_at(runs_database, executor) as desk, running(desk.canceller):
        runs = await desk.create(4)
        await desk.execute(runs[:1])
        others = await desk.create(1, project_id="other")
        call = new_run(idempotency_key="0 0", request_id=str(uuid4()))
        await desk.store.create([call])
        purged = await purge_of(desk).project("p", keep_plan=False)
        assert (purged.runs, purged.changes, purged.complete) == (5, 3 + 4 * 2, True)
        assert (purged.executions, purged.drafts, purged.products, purged.projects) == (5, 1, 3, 1)
        ended = Counter(run.status for run in desk.announced if run.project_id == "p")
        assert ended == {Run.RUNNING: 1, Run.SUCCEEDED: 1, Run.CANCELLED: 4}
        assert await desk.now([*runs, *others]) == others
    for table in ("runs", "run_events", "calls"):
        assert await count(runs_database, table) == 0
    assert await counts(bench) == NOTHING


async def test_without_an_executor_nothing_that_it_has_to_cancel_is_deleted_and_the_next_call_goes_on(
    runs_database: Database, executor_database: str
) -> None:
    address = unused_address()
    async with desk_at(runs_database, address) as desk, running(desk.canceller):
        runs = await desk.create(2)
        with pytest.raises(ServiceError, match="2 runs of project 'p' wait for an executor") as refused:
            await purge_of(desk, budget=0.3).project("p", keep_plan=False)
        assert refused.value.reason is Reason.EXECUTOR_UNAVAILABLE

        async def are_cancelled() -> bool:
            return await desk.statuses(runs) == ["CANCELLED"] * 2

        await eventually(are_cancelled)
        with pytest.raises(ServiceError, match="2 runs of project 'p' wait"):  # for their job may be on its way
            await purge_of(desk, budget=-1).project("p", keep_plan=False)
        async with executor_app.serving(executor_settings(executor_database, address)):
            assert (await purge_of(desk, budget=20).project("p", keep_plan=False)).runs == 2


async def test_a_call_deletes_for_a_while_and_says_that_there_is_more(
    runs_database: Database,
    executor: str,  # noqa: F811
) -> None:
    async with desk_at(runs_database, executor) as desk, running(desk.canceller):
        await desk.execute(runs := await desk.create(3))
        await desk.events.apply((await desk.executor.reconcile([run.id for run in runs])).events)
        purged = await purge_of(desk, budget=-1).project("p", keep_plan=False)
        assert (purged.runs, purged.executions, purged.complete) == (3, 0, False)
        purged = await purge_of(desk).project("p", keep_plan=False)
        assert (purged.runs, purged.executions, purged.complete) == (0, 3, True)


async def test_an_event_that_arrives_later_changes_nothing_and_creates_nothing(
    runs_database: Database,
    executor: str,  # noqa: F811
) -> None:
    async with desk_at(runs_database, executor) as desk, running(desk.canceller):
        (run,) = await desk.create()
        await purge_of(desk).project("p", keep_plan=False)
        desk.announced.clear()
        await desk.events.apply([event(run.id, 7, Run.SUCCEEDED)])
        assert (desk.announced, await count(runs_database, "run_events")) == ([], 0)


async def test_watchers_of_the_project_begin_anew(
    runs_database: Database,
    executor: str,  # noqa: F811
) -> None:
    async with desk_at(runs_database, executor) as desk:
        watchers = ProjectWatchers(desk.store.changes, poll=0.05)
        async with running(desk.canceller, watchers):
            stream = ProjectStream(desk.store, watchers)
            await desk.create()
            sent: list[WatchRunsResponse] = []

            async def write(message: WatchRunsResponse) -> None:
                sent.append(message)

            watching = asyncio.create_task(stream.serve(Filters("p"), after="", write=write))
            await eventually(lambda: len(sent) == 2)
            await purge_of(desk).project("p", keep_plan=False)
            for position in (None, sent[-1].position):
                if position:
                    watching = asyncio.create_task(stream.serve(Filters("p"), after=position, write=write))
                with pytest.raises(ServiceError) as ended:
                    async with asyncio.timeout(10):
                        await watching
                assert ended.value.reason is Reason.POSITION_EXPIRED
            sent.clear()
            watching = asyncio.create_task(stream.serve(Filters("p"), after="", write=write))
            await eventually(lambda: [message.kind for message in sent] == [WatchRunsResponse.BOOKMARK])
            (run,) = await desk.create()
            watchers.wake([run])
            await eventually(lambda: sent[-1].run.id == run.id)
            watching.cancel()
            await asyncio.wait([watching])
