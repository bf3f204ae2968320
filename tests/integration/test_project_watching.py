"""ProjectWatchers and ProjectStream over a real PostgreSQL; the network's edge is a function that takes messages."""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta
from uuid import uuid4

import pytest
from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2 import WatchRunsResponse

from runs_service.queries import RunQueries
from runs_service.store import Changes, Filters, Page, RunStore
from runs_service.watching.positions import Position
from runs_service.watching.project_stream import NEWEST, ProjectStream
from runs_service.watching.project_subscription import BUFFER
from runs_service.watching.projects import PAGE, POLL, ProjectWatchers
from servicekit.background.tasks import running
from servicekit.errors import Reason, ServiceError
from servicekit.postgres.database import Connection, Database
from servicekit.postgres.snapshots import Snapshot
from tests.support.runs import NOW, event, new_run
from tests.support.waiting import eventually

SNAPSHOT, UPDATED, BOOKMARK = WatchRunsResponse.SNAPSHOT, WatchRunsResponse.UPDATED, WatchRunsResponse.BOOKMARK
Seen = tuple[int, str, int]  # kind, run, sequence


class CountedChanges(Changes):
    """Counts what is read for watchers that follow."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.reads: Counter[str] = Counter()

    async def since(self, snapshots: Mapping[str, Snapshot], *, limit: int) -> dict[str, Page]:
        self.reads.update(snapshots.keys())
        return await super().since(snapshots, limit=limit)


class Replica:
    """One replica's watching of a project of the test's own, and the means to change runs."""

    def __init__(self, database: Database, project: str, *, poll: float = POLL, page: int = PAGE) -> None:
        self.database = database
        self.project = project
        self.page = page
        self.store = RunStore(database, reconcile_after=timedelta(hours=1))
        self.changes = CountedChanges(database)
        self.watchers = ProjectWatchers(self.changes, poll=poll, page=page)
        self.numbers: dict[str, int] = {}

    def stream(self, **options: float) -> ProjectStream:
        return ProjectStream(self.store, self.watchers, page=self.page, **options)

    async def create(self, *, hint: bool = True, **fields: object) -> Run:
        wanted = new_run(**{"project_id": self.project, "idempotency_key": str(uuid4()), **fields})
        (stored,) = await self.store.runs.create([wanted])
        if hint:
            self.watchers.wake([stored.run])
        return stored.run

    async def change(self, run: Run, status: Run.Status.ValueType = Run.RUNNING, *, times: int = 1) -> None:
        events = []
        for _ in range(times):
            self.numbers[run.id] = number = self.numbers.get(run.id, 0) + 1
            events.append(event(run.id, number, status, completed=number, project_id=run.project_id))
        self.watchers.wake((await self.store.history.apply_events(events, NOW)).history)

    async def history(self) -> list[Seen]:
        rows = await self.database.fetch_all(
            "SELECT run FROM runs.run_events WHERE project_id = %(p)s ORDER BY run_id, sequence", {"p": self.project}
        )
        runs = [Run.FromString(row.run) for row in rows]
        return [(UPDATED, run.id, run.sequence) for run in runs]


class Watching:
    """A watcher, with every message it was sent. It takes none while `reading` is not set."""

    def __init__(self, replica: Replica, after: str = "", *, take: int | None = None, **options: object) -> None:
        filters = Filters(
            replica.project, **{k: str(options.pop(k)) for k in ("playbook_id", "run_type") if k in options}
        )
        self.sent: list[WatchRunsResponse] = []
        self.take = take  # messages; it leaves then
        self.reading = asyncio.Event()
        self.reading.set()
        serving = replica.stream(**options).serve(filters, after=after, write=self._write)  # type: ignore[arg-type]
        self.task = asyncio.create_task(serving)

    async def _write(self, message: WatchRunsResponse) -> None:
        await self.reading.wait()
        if self.take is not None and len(self.sent) >= self.take:
            raise ConnectionError
        self.sent.append(message)

    @property
    def seen(self) -> list[Seen]:
        return [seen(message) for message in self.sent]

    @property
    def position(self) -> str:
        return self.sent[-1].position

    async def fails(self, reason: Reason) -> None:
        with pytest.raises(ServiceError) as failure:
            async with asyncio.timeout(15):
                await self.task
        assert failure.value.reason is reason


def seen(message: WatchRunsResponse) -> Seen:
    return message.kind, message.run.id, message.run.sequence


def updates(run: Run, first: int, last: int) -> list[Seen]:
    return [(UPDATED, run.id, sequence) for sequence in range(first, last + 1)]


def ordered(messages: list[Seen]) -> bool:
    """Whether the changes of each run come in order."""
    by_run: dict[str, list[int]] = {}
    for _, run_id, sequence in messages:
        by_run.setdefault(run_id, []).append(sequence)
    return all(sequences == sorted(sequences) for sequences in by_run.values())


@asynccontextmanager
async def watching(*args: object, **kwargs: object) -> AsyncIterator[Watching]:
    watcher = Watching(*args, **kwargs)  # type: ignore[arg-type]
    try:
        yield watcher
    finally:
        watcher.task.cancel()
        await asyncio.wait([watcher.task])


@asynccontextmanager
async def running_replica(database: Database, project: str | None = None, **options: float) -> AsyncIterator[Replica]:
    replica = Replica(database, project or f"p-{uuid4()}", **options)  # type: ignore[arg-type]
    async with running(replica.watchers):
        yield replica
    assert replica.watchers.count == 0
    assert not replica.watchers._feeds
    assert not replica.watchers._projects


@pytest.fixture
async def replica(runs_database: Database) -> AsyncIterator[Replica]:
    """A replica whose watchers find by hints what they find."""
    async with running_replica(runs_database, poll=3600.0) as replica:
        yield replica


async def bookmarked(replica: Replica) -> str:
    """Return the position of now."""
    async with watching(replica) as watcher:
        await eventually(lambda: watcher.sent and watcher.sent[-1].kind == BOOKMARK)
        return watcher.position


async def test_the_newest_runs_then_a_bookmark_then_every_change(replica: Replica) -> None:
    runs = [await replica.create() for _ in range(NEWEST + 5)]
    await replica.change(runs[-1], times=2)
    listed, _ = await RunQueries(replica.store).page(Filters(replica.project), limit=NEWEST, offset=0, page_token="")
    async with watching(replica) as watcher:
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
    async with watching(replica) as watcher:
        await eventually(lambda: watcher.seen == [(BOOKMARK, "", 0)])
        run = await replica.create()
        await eventually(lambda: watcher.seen[1:] == updates(run, 1, 1))


async def test_any_message_can_be_resumed_after(replica: Replica) -> None:
    """Also those in the middle of the list, whatever changed since, and those in the middle of a page."""
    runs = [await replica.create() for _ in range(5)]
    async with watching(replica) as whole:
        await eventually(lambda: len(whole.sent) == 6)
        # One page: nothing is read between these changes.
        events = [event(run.id, n, Run.RUNNING, completed=n, project_id=run.project_id) for run in runs for n in (1, 2)]
        await replica.store.history.apply_events(events, NOW)
        late = await replica.create()
        await eventually(lambda: len(whole.sent) == 6 + 11)
    assert ordered(whole.seen[6:])
    further: list[Seen] = []
    for number, message in enumerate(whole.sent):
        async with watching(replica, message.position) as resumed:
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
            take = choose.randrange(1, 40) if cut < 20 else None
            async with watching(replicas[cut % 2], position, take=take) as watcher:
                if take is None:
                    await asyncio.gather(*writers)
                    total = len(await replicas[0].history()) - len(before)
                    await eventually(lambda: len(got) + len(watcher.sent) >= total, timeout=30)  # noqa: B023
                else:
                    with suppress(ConnectionError):
                        await watcher.task
                got += watcher.seen
                position = watcher.position if watcher.sent else position
    assert Counter(got) == Counter(await replicas[0].history()) - Counter(before)
    assert ordered(got)


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
    async with watching(replica) as watcher:
        await eventually(lambda: len(watcher.sent) == 3)
        async with replica.database.transaction() as connection:
            await insert(connection, slow, 2)
            await replica.change(quick, times=3)
            await eventually(lambda: watcher.seen[3:] == updates(quick, 2, 4))
            meanwhile = watcher.position
            async with watching(replica) as later:
                await eventually(lambda: later.sent and later.sent[-1].kind == BOOKMARK)
        replica.watchers.wake([slow])
        await eventually(lambda: watcher.seen[6:] == updates(slow, 2, 2))
    for position in (meanwhile, later.position):
        async with watching(replica, position) as resumed:
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
        async with watching(replica, position) as watcher:
            await eventually(lambda: len(watcher.sent) == 5)
            expected = updates(run, 2, 3) + updates(other, 2, 4)
            assert Counter(watcher.seen) == Counter(expected)
            assert ordered(watcher.seen)
            positions = [message.position for message in watcher.sent]
            got = watcher.seen
        for number, position in enumerate(positions[:-1]):
            async with watching(replica, position) as resumed:
                await eventually(lambda: len(resumed.sent) == 4 - number)  # noqa: B023
                assert Counter(resumed.seen) == Counter(got[number + 1 :])


async def test_a_change_without_a_hint_is_found_by_the_poll(runs_database: Database) -> None:
    async with running_replica(runs_database, poll=0.1) as replica, watching(replica) as watcher:
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
    async with watching(replica) as watcher:
        await eventually(lambda: [kind for kind, _, _ in watcher.seen] == [BOOKMARK, UPDATED])


async def test_fifty_watchers_of_a_project_cost_one_read(replica: Replica) -> None:
    run = await replica.create()
    async with AsyncExitStack() as stack:
        watchers = [await stack.enter_async_context(watching(replica)) for _ in range(50)]
        await eventually(lambda: all(len(watcher.sent) == 2 for watcher in watchers))
        replica.changes.reads.clear()
        for number in range(10):
            await replica.change(run)
            await eventually(lambda: all(len(watcher.sent) == 3 + number for watcher in watchers))  # noqa: B023
        assert all(watcher.seen[2:] == updates(run, 2, 11) for watcher in watchers)
        assert replica.changes.reads.total() <= 11  # one that began before the first change


async def test_another_projects_changes_are_neither_seen_nor_read_for(replica: Replica) -> None:
    async with watching(replica) as watcher:
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
    async with watching(replica, **filters) as watcher:
        await eventually(lambda: watcher.seen == [(SNAPSHOT, ours.id, 1), (BOOKMARK, "", 0)])
        await replica.change(foreign)
        await replica.change(ours)
        await eventually(lambda: watcher.seen[2:] == updates(ours, 2, 2))
    async with watching(replica, watcher.sent[0].position, **filters) as resumed:
        await eventually(lambda: resumed.seen == [(BOOKMARK, "", 0), *updates(ours, 2, 2)])


async def test_a_position_of_other_filters_or_altered_is_refused(replica: Replica) -> None:
    position = await bookmarked(replica)
    async with watching(replica, position, playbook_id="missing_seo_title") as watcher:
        await watcher.fails(Reason.VALIDATION_FAILED)
    for altered in (position[:-1], position + "A", "x", position[::-1], "A" * 20_000):
        async with watching(replica, altered) as watcher:
            await watcher.fails(Reason.VALIDATION_FAILED)


async def test_a_position_expires_with_the_changes_after_it(replica: Replica) -> None:
    run, kept = await replica.create(), await replica.create()
    old = await bookmarked(replica)
    await replica.change(run, Run.SUCCEEDED)
    new = await bookmarked(replica)
    await replica.change(kept)
    await replica.database.execute("DELETE FROM runs.runs WHERE id = CAST(%(id)s AS uuid)", {"id": run.id})
    async with watching(replica, old) as watcher:
        await watcher.fails(Reason.POSITION_EXPIRED)
        assert watcher.sent == []
    async with watching(replica, new) as watcher:
        await eventually(lambda: watcher.seen == updates(kept, 2, 2))


async def test_a_position_of_another_database_expires(replica: Replica) -> None:
    future = Position(Snapshot(2**60, 2**60)).encode(Filters(replica.project))
    async with watching(replica, future) as watcher:
        await watcher.fails(Reason.POSITION_EXPIRED)


async def test_a_watcher_that_does_not_read_is_cut_off_slows_nobody_and_resumes(replica: Replica) -> None:
    run = await replica.create()
    async with watching(replica, write_timeout=0.5) as slow, watching(replica) as quick:
        await eventually(lambda: len(slow.sent) == len(quick.sent) == 2)
        slow.reading.clear()
        for _ in range(4):
            await replica.change(run, times=BUFFER // 2)
        await eventually(lambda: len(quick.sent) == 2 + 2 * BUFFER)
        await slow.fails(Reason.WATCHER_TOO_SLOW)
    async with watching(replica, slow.position) as resumed:
        await eventually(lambda: len(slow.sent) + len(resumed.sent) == 2 + 2 * BUFFER)
        assert slow.seen[2:] + resumed.seen == updates(run, 2, 2 * BUFFER + 1)


async def test_a_watcher_that_lags_behind_the_buffer_reads_by_itself_and_misses_nothing(replica: Replica) -> None:
    run = await replica.create()
    async with watching(replica) as slow, watching(replica) as quick:
        await eventually(lambda: len(slow.sent) == len(quick.sent) == 2)
        slow.reading.clear()
        for _ in range(4):
            await replica.change(run, times=BUFFER // 2)
        await eventually(lambda: len(quick.sent) == 2 + 2 * BUFFER)
        slow.reading.set()
        await eventually(lambda: slow.seen[2:] == updates(run, 2, 2 * BUFFER + 1))
        await replica.change(run)
        await eventually(lambda: slow.seen[-1] == (UPDATED, run.id, 2 * BUFFER + 2))


async def test_a_quiet_stream_gets_bookmarks_that_move_on(replica: Replica) -> None:
    run = await replica.create(playbook_id="missing_seo_description")
    async with watching(replica, playbook_id="missing_seo_title", bookmark_after=0.05) as watcher:
        await eventually(lambda: len(watcher.sent) > 2)
        await replica.change(run, times=3)
        first = watcher.sent[0].position
        await eventually(lambda: watcher.position != first)
        assert {kind for kind, _, _ in watcher.seen} == {BOOKMARK}
    async with watching(replica, watcher.position, playbook_id="missing_seo_title") as resumed:
        ours = await replica.create()
        await eventually(lambda: resumed.seen == updates(ours, 1, 1))


async def test_bookmarks_move_on_while_nothing_happens_in_the_project(runs_database: Database) -> None:
    """So that a position of a quiet project does not expire, nor look back on all that others did."""
    async with (
        running_replica(runs_database, poll=0.02) as replica,
        watching(replica, bookmark_after=0.05) as watcher,
    ):
        await eventually(lambda: watcher.sent)
        await replica.create(project_id=f"q-{uuid4()}")
        await eventually(lambda: watcher.position != watcher.sent[0].position)
        assert {kind for kind, _, _ in watcher.seen} == {BOOKMARK}


async def test_stopping_ends_all_watchers_and_those_to_come(replica: Replica) -> None:
    async with watching(replica) as early:
        await eventually(lambda: early.sent)
        replica.watchers.end(ServiceError(Reason.SHUTTING_DOWN, "bye"))
        async with watching(replica) as late:
            for watcher in (early, late):
                await watcher.fails(Reason.SHUTTING_DOWN)


async def test_a_long_absence_is_made_good_in_pages(runs_database: Database) -> None:
    async with running_replica(runs_database, page=10, poll=3600.0) as replica:
        position = await bookmarked(replica)
        runs = [await replica.create() for _ in range(30)]
        for run in runs:
            await replica.change(run, Run.SUCCEEDED)
        async with watching(replica, position) as watcher:
            await eventually(lambda: len(watcher.sent) == 90)
            assert Counter(watcher.seen) == Counter(itertools.chain(*(updates(run, 1, 3) for run in runs)))
