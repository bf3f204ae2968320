"""ProjectWatchers and ProjectStream over a real PostgreSQL: what watchers of a project get, and in which order."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from datetime import timedelta
from uuid import uuid4

import pytest
from playbooks.runs.v1.run_pb2 import Run

from runs_service.queries import RunQueries
from runs_service.store import Filters, RunStore
from runs_service.watching.project_stream import NEWEST
from runs_service.watching.project_subscription import BUFFER
from servicekit.errors import Reason, ServiceError
from servicekit.postgres.database import Connection, Database
from servicekit.postgres.snapshots import Snapshot
from tests.support.project_watching import (
    BOOKMARK,
    SNAPSHOT,
    UPDATED,
    Replica,
    Watching,
    bookmarked,
    ordered,
    running_replica,
    updates,
)
from tests.support.waiting import eventually


async def test_the_newest_runs_then_a_bookmark_then_every_change(replica: Replica) -> None:
    runs = [await replica.create() for _ in range(NEWEST + 5)]
    await replica.change(runs[-1], times=2)
    listed, _ = await RunQueries(replica.store).page(Filters(replica.project), limit=NEWEST, offset=0, page_token="")
    async with Watching(replica) as watcher:
        await eventually(lambda: len(watcher.sent) == NEWEST + 1)
        assert [message.run for message in watcher.sent[:-1]] == listed
        assert Counter(message.kind for message in watcher.sent) == {SNAPSHOT: NEWEST, BOOKMARK: 1}
        assert watcher.sent[-1].kind == BOOKMARK
        assert not watcher.sent[-1].HasField("run")
        new = await replica.create()
        await replica.change(runs[0])
        await replica.change(new, Run.SUCCEEDED)
        expected = [(UPDATED, new.id, 1), *updates(runs[0], 2, 2), *updates(new, 2, 3)]
        await eventually(lambda: len(watcher.sent) == NEWEST + 1 + len(expected))
        assert Counter(watcher.seen[NEWEST + 1 :]) == Counter(expected)
        assert watcher.sent[-1].run == await replica.store.runs.get(replica.project, watcher.sent[-1].run.id)


async def test_a_project_without_runs_begins_with_the_bookmark(replica: Replica) -> None:
    async with Watching(replica) as watcher:
        await eventually(lambda: watcher.seen == [(BOOKMARK, "", 0)])
        run = await replica.create()
        await eventually(lambda: watcher.seen[1:] == updates(run, 1, 1))


_INSERT = """
INSERT INTO runs.run_events (run_id, sequence, run, project_id)
VALUES (CAST(%(id)s AS uuid), %(sequence)s, %(run)s, %(project)s)"""


async def insert(connection: Connection, run: Run, sequence: int) -> None:
    """Write a change as a slow process would, in its own transaction."""
    version = Run()
    version.CopyFrom(run)
    version.sequence = sequence
    parameters = {"id": run.id, "sequence": sequence, "run": version.SerializeToString(), "project": run.project_id}
    await connection.execute(_INSERT, parameters)


async def test_a_writer_that_keeps_its_transaction_open_delays_nobody_and_is_not_missed(replica: Replica) -> None:
    slow, quick = await replica.create(), await replica.create()
    async with Watching(replica) as watcher:
        await eventually(lambda: len(watcher.sent) == 3)
        async with replica.database.transaction() as connection:
            await insert(connection, slow, 2)
            await replica.change(quick, times=3)
            await eventually(lambda: watcher.seen[3:] == updates(quick, 2, 4))
            meanwhile = watcher.position
            async with Watching(replica) as later:
                await eventually(lambda: later.sent and later.sent[-1].kind == BOOKMARK)
        replica.watchers.wake([slow])
        await eventually(lambda: watcher.seen[6:] == updates(slow, 2, 2))
    for position in (meanwhile, later.position):
        async with Watching(replica, position) as resumed:
            await eventually(lambda: resumed.sent)
            await replica.change(quick)
            await eventually(lambda: len(resumed.sent) >= 2)
            assert resumed.seen[0] == (UPDATED, slow.id, 2)
            assert resumed.seen[-1][:2] == (UPDATED, quick.id)


@pytest.mark.parametrize("page", [1, 2, 3])
async def test_a_run_stays_in_order_when_an_older_transaction_changes_it_last(
    page: int, runs_database: Database
) -> None:
    async with running_replica(runs_database, page=page, poll=3600.0) as replica:
        run, other = await replica.create(), await replica.create()
        position = await bookmarked(replica)
        async with replica.database.transaction() as old, replica.database.transaction() as older:
            await older.execute("SELECT pg_current_xact_id()")
            await old.execute("SELECT pg_current_xact_id()")
            await replica.change(run)
            await replica.change(other, times=2)
            await insert(old, run, 3)
            async with asyncio.timeout(10):
                await insert(older, other, 4)
        async with Watching(replica, position) as watcher:
            await eventually(lambda: len(watcher.sent) == 5)
            expected = updates(run, 2, 3) + updates(other, 2, 4)
            assert Counter(watcher.seen) == Counter(expected)
            assert ordered(watcher.seen)
            positions = [message.position for message in watcher.sent]
            got = watcher.seen
        for number, position in enumerate(positions[:-1]):
            async with Watching(replica, position) as resumed:
                await eventually(lambda: len(resumed.sent) == 4 - number)  # noqa: B023
                assert Counter(resumed.seen) == Counter(got[number + 1 :])


async def test_a_change_without_a_hint_is_found_by_the_poll(runs_database: Database) -> None:
    async with running_replica(runs_database, poll=0.1) as replica, Watching(replica) as watcher:
        await eventually(lambda: watcher.sent)
        run = await replica.create(hint=False)
        await eventually(lambda: watcher.seen[1:] == updates(run, 1, 1))


async def test_a_change_between_the_list_and_the_following_is_not_missed(replica: Replica) -> None:
    """Nobody followed the project yet, so the hint was heard by nobody."""

    class Interrupted(RunStore):
        async def newest(self, filters: Filters, *, limit: int) -> tuple[Snapshot, list[Run]]:
            found = await super().newest(filters, limit=limit)
            await replica.create()
            await eventually(lambda: not replica.watchers._woken)  # the hint was taken, and nothing read
            return found

    replica.store = Interrupted(replica.database, reconcile_after=timedelta(hours=1))
    async with Watching(replica) as watcher:
        await eventually(lambda: [kind for kind, _, _ in watcher.seen] == [BOOKMARK, UPDATED])


async def test_fifty_watchers_of_a_project_cost_one_read(replica: Replica) -> None:
    run = await replica.create()
    async with AsyncExitStack() as stack:
        watchers = [await stack.enter_async_context(Watching(replica)) for _ in range(50)]
        await eventually(lambda: all(len(watcher.sent) == 2 for watcher in watchers))
        replica.changes.reads.clear()
        for number in range(10):
            await replica.change(run)
            await eventually(lambda: all(len(watcher.sent) == 3 + number for watcher in watchers))  # noqa: B023
        assert all(watcher.seen[2:] == updates(run, 2, 11) for watcher in watchers)
        assert replica.changes.reads.total() <= 11  # one that began before the first change


async def test_another_projects_changes_are_neither_seen_nor_read_for(replica: Replica) -> None:
    async with Watching(replica) as watcher:
        await eventually(lambda: watcher.sent)
        await eventually(lambda: replica.changes.reads)
        replica.changes.reads.clear()
        await replica.create(project_id=f"q-{uuid4()}")
        run = await replica.create()
        await eventually(lambda: watcher.seen[1:] == updates(run, 1, 1))
        assert replica.changes.reads.keys() == {replica.project}


@pytest.mark.parametrize(
    "filters",
    [{"playbook_id": "missing_seo_title"}, {"run_type": "PREVIEW_GENERATE"}],
    ids=["playbook", "type"],
)
async def test_filters_hold_for_the_list_and_for_changes(filters: dict[str, str], replica: Replica) -> None:
    other: dict[str, object] = (
        {"playbook_id": "missing_seo_description"}
        if "playbook_id" in filters
        else {"run_type": Run.APPLY, "scope_id": "s", "rules_hash": "r"}
    )
    ours, foreign = await replica.create(), await replica.create(**other)
    async with Watching(replica, **filters) as watcher:
        await eventually(lambda: watcher.seen == [(SNAPSHOT, ours.id, 1), (BOOKMARK, "", 0)])
        await replica.change(foreign)
        await replica.change(ours)
        await eventually(lambda: watcher.seen[2:] == updates(ours, 2, 2))
    async with Watching(replica, watcher.sent[0].position, **filters) as resumed:
        await eventually(lambda: resumed.seen == [(BOOKMARK, "", 0), *updates(ours, 2, 2)])


async def test_a_watcher_that_does_not_read_is_cut_off_slows_nobody_and_resumes(replica: Replica) -> None:
    run = await replica.create()
    async with Watching(replica, write_timeout=1.0) as slow, Watching(replica) as quick:
        await eventually(lambda: len(slow.sent) == len(quick.sent) == 2)
        slow.reading.clear()
        for _ in range(4):
            await replica.change(run, times=BUFFER // 2)
        await eventually(lambda: len(quick.sent) == 2 + 2 * BUFFER)
        await slow.fails(Reason.WATCHER_TOO_SLOW)
    async with Watching(replica, slow.position) as resumed:
        await eventually(lambda: len(slow.sent) + len(resumed.sent) == 2 + 2 * BUFFER)
        assert slow.seen[2:] + resumed.seen == updates(run, 2, 2 * BUFFER + 1)


async def test_a_watcher_that_lags_behind_the_buffer_reads_by_itself_and_misses_nothing(replica: Replica) -> None:
    run = await replica.create()
    async with Watching(replica) as slow, Watching(replica) as quick:
        await eventually(lambda: len(slow.sent) == len(quick.sent) == 2)
        slow.reading.clear()
        for _ in range(4):
            await replica.change(run, times=BUFFER // 2)
        await eventually(lambda: len(quick.sent) == 2 + 2 * BUFFER)
        slow.reading.set()
        await eventually(lambda: slow.seen[2:] == updates(run, 2, 2 * BUFFER + 1))
        await replica.change(run)
        await eventually(lambda: slow.seen[-1] == (UPDATED, run.id, 2 * BUFFER + 2))


async def test_stopping_ends_all_watchers_and_those_to_come(replica: Replica) -> None:
    async with Watching(replica) as early:
        await eventually(lambda: early.sent)
        replica.watchers.end(ServiceError(Reason.SHUTTING_DOWN, "bye"))
        async with Watching(replica) as late:
            for watcher in (early, late):
                await watcher.fails(Reason.SHUTTING_DOWN)
