"""Positions in the watch of a project: where it resumes, and which of them are refused."""

import asyncio
import itertools
import random
from collections import Counter
from contextlib import AsyncExitStack, suppress
from uuid import uuid4

from playbooks.runs.v1.run_pb2 import Run

from runs_service.store import Filters
from runs_service.watching.positions import Position
from runs_service.watching.projects import PAGE
from servicekit.errors import Reason
from servicekit.postgres.database import Database
from servicekit.postgres.snapshots import Snapshot
from tests.support.project_watching import (
    BOOKMARK,
    UPDATED,
    Replica,
    Seen,
    Watching,
    bookmarked,
    ordered,
    running_replica,
    updates,
)
from tests.support.runs import NOW, event
from tests.support.waiting import eventually


async def test_any_message_can_be_resumed_after(replica: Replica) -> None:
    """Also those in the middle of the list, after further changes, and those in the middle of a page."""
    runs = [await replica.create() for _ in range(5)]
    async with Watching(replica) as whole:
        await eventually(lambda: len(whole.sent) == 6)
        # One page: nothing is read between these changes.
        events = [event(run.id, n, Run.RUNNING, completed=n, project_id=run.project_id) for run in runs for n in (1, 2)]
        await replica.store.history.apply_events(events, NOW)
        late = await replica.create()
        await eventually(lambda: len(whole.sent) == 6 + 11)
    assert ordered(whole.seen[6:])
    further: list[Seen] = []
    for number, message in enumerate(whole.sent):
        async with Watching(replica, message.position) as resumed:
            expected = Counter(whole.seen[number + 1 :] + further)
            await eventually(lambda: len(resumed.sent) >= expected.total())  # noqa: B023
            await replica.change(late)
            further.append((UPDATED, late.id, number + 2))
            await eventually(lambda: resumed.seen[-1] == further[-1])
            assert Counter(resumed.seen) == expected + Counter(further[-1:])
            assert ordered(resumed.seen[max(0, 5 - number) :])


async def test_200_runs_of_eight_writers_and_a_watcher_that_is_cut_20_times(runs_database: Database) -> None:
    choose = random.Random(20)
    project = f"p-{uuid4()}"
    async with AsyncExitStack() as stack:
        replicas = [
            await stack.enter_async_context(running_replica(runs_database, project, page=page, poll=0.05))
            for page in (7, PAGE)
        ]
        await replicas[0].create()
        position = await bookmarked(replicas[0])
        before = await replicas[0].history()

        async def write(number: int) -> None:
            writer = replicas[number % 2]
            for _ in range(25):
                run = await writer.create()
                await writer.change(run, times=choose.randrange(3))
                await writer.change(run, Run.SUCCEEDED)

        writers = [asyncio.create_task(write(number)) for number in range(8)]
        got: list[Seen] = []
        for cut in range(21):
            limit = choose.randrange(1, 40) if cut < 20 else None
            async with Watching(replicas[cut % 2], position, limit=limit) as watcher:
                if limit is None:
                    await asyncio.gather(*writers)
                    total = len(await replicas[0].history()) - len(before)
                    await eventually(lambda: len(got) + len(watcher.sent) >= total)  # noqa: B023
                else:
                    with suppress(ConnectionError):
                        await watcher.task
                got += watcher.seen
                position = watcher.position if watcher.sent else position
    assert Counter(got) == Counter(await replicas[0].history()) - Counter(before)
    assert ordered(got)


async def test_a_position_of_other_filters_or_altered_is_refused(replica: Replica) -> None:
    position = await bookmarked(replica)
    async with Watching(replica, position, playbook_id="missing_seo_title") as watcher:
        await watcher.fails(Reason.VALIDATION_FAILED)
    for altered in (position[:-1], position + "A", "x", position[::-1], "A" * 20_000):
        async with Watching(replica, altered) as watcher:
            await watcher.fails(Reason.VALIDATION_FAILED)


async def test_a_position_expires_with_the_changes_after_it(replica: Replica) -> None:
    run, kept = await replica.create(), await replica.create()
    old = await bookmarked(replica)
    await replica.change(run, Run.SUCCEEDED)
    new = await bookmarked(replica)
    await replica.change(kept)
    await replica.database.execute("DELETE FROM runs.runs WHERE id = CAST(%(id)s AS uuid)", {"id": run.id})
    async with Watching(replica, old) as watcher:
        await watcher.fails(Reason.POSITION_EXPIRED)
        assert watcher.sent == []
    async with Watching(replica, new) as watcher:
        await eventually(lambda: watcher.seen == updates(kept, 2, 2))


async def test_a_position_of_another_database_expires(replica: Replica) -> None:
    future = Position(Snapshot(2**60, 2**60)).encode(Filters(replica.project))
    async with Watching(replica, future) as watcher:
        await watcher.fails(Reason.POSITION_EXPIRED)


async def test_a_quiet_stream_gets_bookmarks_that_move_on(replica: Replica) -> None:
    run = await replica.create(playbook_id="missing_seo_description")
    async with Watching(replica, playbook_id="missing_seo_title", bookmark_after=0.05) as watcher:
        await eventually(lambda: len(watcher.sent) > 2)
        await replica.change(run, times=3)
        first = watcher.sent[0].position
        await eventually(lambda: watcher.position != first)
        assert {kind for kind, _, _ in watcher.seen} == {BOOKMARK}
    async with Watching(replica, watcher.position, playbook_id="missing_seo_title") as resumed:
        ours = await replica.create()
        await eventually(lambda: resumed.seen == updates(ours, 1, 1))


async def test_bookmarks_move_on_while_nothing_happens_in_the_project(runs_database: Database) -> None:
    """So that a position of a quiet project does not expire, nor look back on all that others did."""
    async with (
        running_replica(runs_database, poll=0.02) as replica,
        Watching(replica, bookmark_after=0.05) as watcher,
    ):
        await eventually(lambda: watcher.sent)
        await replica.create(project_id=f"q-{uuid4()}")
        await eventually(lambda: watcher.position != watcher.sent[0].position)
        assert {kind for kind, _, _ in watcher.seen} == {BOOKMARK}


async def test_a_long_absence_is_made_good_in_pages(runs_database: Database) -> None:
    async with running_replica(runs_database, page=10, poll=3600.0) as replica:
        position = await bookmarked(replica)
        runs = [await replica.create() for _ in range(30)]
        for run in runs:
            await replica.change(run, Run.SUCCEEDED)
        async with Watching(replica, position) as watcher:
            await eventually(lambda: len(watcher.sent) == 90)
            assert Counter(watcher.seen) == Counter(itertools.chain(*(updates(run, 1, 3) for run in runs)))
