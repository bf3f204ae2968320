"""Watchers and RunStream over a real PostgreSQL; the network's edge is a function that takes messages."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2 import WatchRunResponse

from runs_service.queries import RunQueries
from runs_service.store import History, RunStore
from runs_service.store.history import Followed
from runs_service.store.version_cache import VersionCache
from runs_service.watching.hub import POLL, Watchers
from runs_service.watching.stream import RunStream
from runs_service.watching.subscription import BUFFER
from servicekit.background.tasks import running
from servicekit.errors import Reason, ServiceError
from servicekit.postgres.database import Database
from tests.support.runs import NOW, event, new_run
from tests.support.waiting import eventually

SNAPSHOT, UPDATED, HEARTBEAT = WatchRunResponse.SNAPSHOT, WatchRunResponse.UPDATED, WatchRunResponse.HEARTBEAT


class Hub:
    """One replica's watching, and the means to change runs."""

    def __init__(self, database: Database, *, poll: float = POLL) -> None:
        self.store = RunStore(database, reconcile_after=timedelta(hours=1))
        self.watchers = Watchers(self.store.history, poll=poll)
        self.queries = RunQueries(self.store)
        self.numbers: dict[str, int] = {}

    def stream(self, **options: float) -> RunStream:
        return RunStream(self.queries, self.watchers, **options)

    async def create(self) -> Run:
        (stored,) = await self.store.runs.create([new_run(idempotency_key=str(len(self.numbers)))])
        self.numbers[stored.run.id] = 0
        return stored.run

    async def change(
        self, run: Run, status: Run.Status.ValueType = Run.RUNNING, *, times: int = 1, hint: bool = True
    ) -> None:
        events = []
        for _ in range(times):
            self.numbers[run.id] = number = self.numbers[run.id] + 1
            events.append(event(run.id, number, status, completed=number))
        await self.store.history.apply_events(events, NOW)
        if hint:
            self.watchers.wake(run.id)


class Watching:
    """A watcher, with every message it was sent. It takes none while `reading` is not set."""

    def __init__(self, hub: Hub, run: Run, after: int | None = None, **options: float) -> None:
        self.sent: list[WatchRunResponse] = []
        self.reading = asyncio.Event()
        self.reading.set()
        self.task = asyncio.create_task(
            hub.stream(**options).serve(run.project_id, run.id, after=after, write=self._write)
        )

    async def _write(self, message: WatchRunResponse) -> None:
        await self.reading.wait()
        self.sent.append(message)

    @property
    def seen(self) -> list[tuple[int, int]]:
        return [(message.kind, message.run.sequence) for message in self.sent]

    async def ends(self) -> None:
        async with asyncio.timeout(15):
            await self.task


@pytest.fixture
async def hub(runs_database: Database) -> AsyncIterator[Hub]:
    async with running_hub(runs_database) as hub:
        yield hub


@pytest.fixture
async def hub_without_poll(runs_database: Database) -> AsyncIterator[Hub]:
    """A hub whose watchers find by hints what they find."""
    async with running_hub(runs_database, poll=3600.0) as hub:
        yield hub


@asynccontextmanager
async def running_hub(database: Database, *, poll: float = POLL) -> AsyncIterator[Hub]:
    hub = Hub(database, poll=poll)
    async with running(hub.watchers):
        yield hub
    assert hub.watchers.count == 0
    assert not hub.watchers._subscriptions


@asynccontextmanager
async def watching(*args: object, **kwargs: object) -> AsyncIterator[Watching]:
    watcher = Watching(*args, **kwargs)  # type: ignore[arg-type]
    try:
        yield watcher
    finally:
        watcher.task.cancel()
        await asyncio.wait([watcher.task])


def updates(first: int, last: int) -> list[tuple[int, int]]:
    return [(UPDATED, sequence) for sequence in range(first, last + 1)]


async def test_a_watcher_gets_a_snapshot_at_once_then_every_change_then_the_end(hub: Hub) -> None:
    run = await hub.create()
    async with watching(hub, run) as watcher:
        await eventually(lambda: watcher.seen == [(SNAPSHOT, 1)])
        for _ in range(5):
            await hub.change(run)
        await hub.change(run, Run.SUCCEEDED)
        await watcher.ends()
    assert watcher.seen == [(SNAPSHOT, 1), *updates(2, 7)]
    assert watcher.sent[-1].run == await hub.store.runs.get("p", run.id)


async def test_a_change_without_a_hint_is_found_by_the_poll(hub: Hub) -> None:
    run = await hub.create()
    async with watching(hub, run) as watcher:
        await eventually(lambda: watcher.seen)
        await hub.change(run, hint=False)
        await eventually(lambda: watcher.seen == [(SNAPSHOT, 1), (UPDATED, 2)], timeout=3 * POLL)


async def test_hints_about_other_runs_do_not_put_off_the_poll(hub: Hub) -> None:
    quiet, busy = await hub.create(), await hub.create()
    async with watching(hub, quiet) as watcher, watching(hub, busy):
        await eventually(lambda: watcher.seen)
        await hub.change(quiet, hint=False)

        def found() -> bool:
            hub.watchers.wake(busy.id)
            return len(watcher.seen) == 2

        await eventually(found, timeout=3 * POLL)


@pytest.mark.parametrize("after", [0, 1, 3, 5])
async def test_a_resumed_watcher_gets_what_it_missed_and_no_snapshot(after: int, hub: Hub) -> None:
    run = await hub.create()
    await hub.change(run, times=4)
    async with watching(hub, run, after) as watcher:
        await eventually(lambda: watcher.seen == updates(after + 1, 5))
        await hub.change(run, Run.FAILED)
        await watcher.ends()
    assert watcher.seen == updates(after + 1, 6)


@pytest.mark.parametrize(("after", "expected"), [(None, [(SNAPSHOT, 3)]), (0, updates(1, 3)), (3, [])])
async def test_watching_a_finished_run_sends_what_is_missing_and_ends(
    after: int | None, expected: list[tuple[int, int]], hub: Hub
) -> None:
    run = await hub.create()
    await hub.change(run, Run.SUCCEEDED)
    async with watching(hub, run, after) as watcher:
        await watcher.ends()
    assert watcher.seen == expected


async def test_a_history_longer_than_the_buffer_arrives_whole(hub: Hub) -> None:
    run = await hub.create()
    length = 5 * BUFFER + 7
    await hub.change(run, times=length)
    await hub.change(run, Run.SUCCEEDED)
    async with watching(hub, run, 0) as watcher:
        await watcher.ends()
    assert watcher.seen == updates(1, length + 2)


async def test_a_watcher_that_resumes_far_behind_delays_no_other(hub_without_poll: Hub) -> None:
    hub = hub_without_poll
    run = await hub.create()
    await hub.change(run, times=3 * BUFFER)
    async with watching(hub, run) as current:
        await eventually(lambda: current.seen)
        async with watching(hub, run, 0) as behind:
            behind.reading.clear()
            await hub.change(run)
            await eventually(lambda: len(current.seen) == 2)
            behind.reading.set()
            await eventually(lambda: behind.seen == updates(1, 3 * BUFFER + 2))
    assert current.seen[-1] == (UPDATED, 3 * BUFFER + 2)


class SlowHistory(History):
    """Returns from `after` only while `let` is set."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, VersionCache(), reconcile_after=timedelta(hours=1))
        self.asked = asyncio.Event()
        self.asked_for: set[str] = set()
        self.let = asyncio.Event()

    async def after(self, positions: Mapping[str, int], *, limit: int) -> Followed:
        found = await super().after(positions, limit=limit)
        self.asked_for |= positions.keys()
        self.asked.set()
        await self.let.wait()
        return found


async def test_a_watcher_that_joins_during_a_read_for_others_misses_nothing(runs_database: Database) -> None:
    hub = Hub(runs_database)
    slow = SlowHistory(runs_database)
    hub.watchers = Watchers(slow)
    run = await hub.create()
    await hub.change(run, times=4)
    with hub.watchers.subscribe(run.id) as first, hub.watchers.subscribe(run.id) as second:
        async with running(hub.watchers):
            first.follow(5, newest=5)
            await hub.change(run)
            await slow.asked.wait()
            second.follow(0, newest=6)  # the read under way began at 5
            slow.let.set()
            async with asyncio.timeout(10):
                assert (await first.next()).sequence == 6
                assert [(await second.next()).sequence for _ in range(6)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("hints", ["{}:2", "{}:1 {}:2 {}:1", None], ids=["one", "several", "a gap"])
async def test_a_change_between_the_read_and_the_following_is_read_without_the_poll(
    hints: str | None, hub_without_poll: Hub
) -> None:
    hub = hub_without_poll
    run = await hub.create()
    with hub.watchers.subscribe(run.id) as subscription:
        await hub.change(run, hint=False)
        if hints:
            hub.watchers.on_notification(hints.replace("{}", run.id))
        else:
            hub.watchers.wake_all()
        subscription.follow(1, newest=1)
        async with asyncio.timeout(10):
            assert (await subscription.next()).sequence == 2


async def test_nothing_is_read_for_a_watcher_that_has_the_sequence_in_the_hint(runs_database: Database) -> None:
    hub = Hub(runs_database)
    slow = SlowHistory(runs_database)
    slow.let.set()
    hub.watchers = Watchers(slow)
    run, other = await hub.create(), await hub.create()
    await hub.change(run)
    async with running(hub.watchers):
        with hub.watchers.subscribe(run.id) as current, hub.watchers.subscribe(other.id) as behind:
            hub.watchers.on_notification(f"{run.id}:2")
            current.follow(2, newest=2)
            hub.watchers.on_notification(f"{run.id}:2")
            behind.follow(0, newest=1)
            async with asyncio.timeout(10):
                assert (await behind.next()).sequence == 1
    assert slow.asked_for == {other.id}


async def test_a_watcher_that_makes_room_during_a_read_for_others_misses_nothing(runs_database: Database) -> None:
    hub = Hub(runs_database)
    slow = SlowHistory(runs_database)
    slow.let.set()
    hub.watchers = Watchers(slow)
    run = await hub.create()
    length = 2 * BUFFER
    await hub.change(run, times=length - 1)
    with hub.watchers.subscribe(run.id) as current, hub.watchers.subscribe(run.id) as full:
        async with running(hub.watchers):
            current.follow(length, newest=length)
            full.follow(0, newest=length)
            await eventually(lambda: full.position == BUFFER and not full.ready)
            slow.let.clear()
            slow.asked.clear()
            await hub.change(run)
            await slow.asked.wait()  # a read for `current` alone
            got = [(await full.next()).sequence for _ in range(BUFFER)]
            slow.let.set()
            async with asyncio.timeout(10):
                assert (await current.next()).sequence == length + 1
                got += [(await full.next()).sequence for _ in range(length + 1 - BUFFER)]
    assert got == list(range(1, length + 2))


async def test_many_watchers_get_the_same_changes_in_whatever_order_they_came(hub: Hub) -> None:
    run = await hub.create()
    watchers: list[Watching] = []
    for number in range(30):
        watchers.append(Watching(hub, run, None if number % 2 else 0))
        await hub.change(run)
    await hub.change(run, Run.SUCCEEDED)
    for watcher in watchers:
        await watcher.ends()
        first = watcher.seen[0][1]
        assert [sequence for _, sequence in watcher.seen] == list(range(first, 33))
        assert [kind for kind, _ in watcher.seen[1:]] == [UPDATED] * (len(watcher.seen) - 1)


async def test_a_quiet_stream_gets_heartbeats_with_the_run_as_sent_last(hub: Hub) -> None:
    run = await hub.create()
    async with watching(hub, run, heartbeat_after=0.05) as watcher:
        await eventually(lambda: watcher.seen[:3] == [(SNAPSHOT, 1), (HEARTBEAT, 1), (HEARTBEAT, 1)])
        await hub.change(run)
        await eventually(lambda: watcher.seen[-2:] == [(UPDATED, 2), (HEARTBEAT, 2)])
    assert watcher.sent[-1].run == watcher.sent[-2].run


async def test_no_heartbeat_names_a_sequence_that_was_not_sent(runs_database: Database) -> None:
    hub = Hub(runs_database)  # its watchers do not run: no change is delivered
    run = await hub.create()
    await hub.change(run, times=3)
    async with watching(hub, run, 1, heartbeat_after=0.01) as behind, watching(hub, run, 4, heartbeat_after=0.01) as up:
        await eventually(lambda: len(up.seen) > 3)
        assert set(up.seen) == {(HEARTBEAT, 4)}
        assert behind.seen == []


async def test_a_watcher_that_does_not_read_is_cut_off_and_slows_nobody(hub: Hub) -> None:
    run = await hub.create()
    async with watching(hub, run, write_timeout=0.3) as slow, watching(hub, run) as quick:
        await eventually(lambda: slow.seen and quick.seen)
        slow.reading.clear()
        await hub.change(run, times=3 * BUFFER)
        await eventually(lambda: len(quick.seen) == 1 + 3 * BUFFER)
        with pytest.raises(ServiceError) as failure:
            await slow.ends()
        assert failure.value.reason is Reason.WATCHER_TOO_SLOW
        position = slow.seen[-1][1]
    async with watching(hub, run, position) as resumed:
        await hub.change(run, Run.SUCCEEDED)
        await resumed.ends()
    assert [sequence for _, sequence in slow.seen + resumed.seen] == list(range(1, 3 * BUFFER + 3))


@pytest.mark.parametrize(
    ("after", "foreign", "reason"),
    [
        (None, True, Reason.RUN_NOT_FOUND),
        (5, False, Reason.VALIDATION_FAILED),
    ],
)
async def test_a_watch_that_cannot_begin_says_why(after: int | None, foreign: bool, reason: Reason, hub: Hub) -> None:
    run = await hub.create()
    if foreign:
        run.project_id = "q"
    async with watching(hub, run, after) as watcher:
        with pytest.raises(ServiceError) as failure:
            await watcher.ends()
    assert failure.value.reason is reason
    assert watcher.seen == []


async def test_a_sequence_that_is_not_kept_expires_and_the_oldest_is_named(hub: Hub, runs_database: Database) -> None:
    run = await hub.create()
    await hub.change(run, times=4)
    await runs_database.execute("DELETE FROM runs.run_events WHERE sequence < 3")
    async with watching(hub, run, 1) as watcher:
        with pytest.raises(ServiceError) as failure:
            await watcher.ends()
    assert failure.value.reason is Reason.SEQUENCE_EXPIRED
    assert failure.value.metadata == {"oldest_sequence": "3"}
    async with watching(hub, run, 2) as watcher:
        await eventually(lambda: watcher.seen == updates(3, 5))


async def test_a_run_whose_whole_history_is_gone_has_expired(hub: Hub, runs_database: Database) -> None:
    run = await hub.create()
    await hub.change(run, Run.SUCCEEDED)
    await runs_database.execute("DELETE FROM runs.run_events")
    async with watching(hub, run, 1) as watcher:
        with pytest.raises(ServiceError) as failure:
            await watcher.ends()
    assert failure.value.reason is Reason.SEQUENCE_EXPIRED


async def test_stopping_ends_all_watchers_and_those_to_come(hub: Hub) -> None:
    run = await hub.create()
    stopping = ServiceError(Reason.SHUTTING_DOWN, "bye")
    async with watching(hub, run) as early:
        await eventually(lambda: early.seen)
        hub.watchers.end(stopping)
        async with watching(hub, run) as late:
            for watcher in (early, late):
                with pytest.raises(ServiceError) as failure:
                    await watcher.ends()
                assert failure.value.reason is Reason.SHUTTING_DOWN


async def test_watchers_outlive_a_database_that_fails(
    hub: Hub, runs_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await hub.create()
    async with watching(hub, run) as watcher:
        await eventually(lambda: watcher.seen)
        failed = asyncio.Event()

        async def fail(*_: object, **__: object) -> list[Run]:
            failed.set()
            raise ServiceError(Reason.DATABASE_UNAVAILABLE, "gone")

        with monkeypatch.context() as patched:
            patched.setattr(hub.store.history, "after", fail)
            await hub.change(run)
            await failed.wait()
        await eventually(lambda: watcher.seen == [(SNAPSHOT, 1), (UPDATED, 2)], timeout=3 * POLL)


async def test_waiting_for_the_end_of_a_run(hub: Hub) -> None:
    run = await hub.create()
    waiting = asyncio.create_task(hub.stream().wait_for_end(run))
    await eventually(lambda: hub.watchers.count)
    await hub.change(run)
    await hub.change(run, Run.SUCCEEDED)
    async with asyncio.timeout(10):
        assert (await waiting).status == Run.SUCCEEDED
        assert (await hub.stream().wait_for_end(run)).status == Run.SUCCEEDED  # one that has ended already


async def test_a_call_that_waits_for_the_end_of_a_run_says_at_a_stop_where_to_find_it(hub: Hub) -> None:
    run = await hub.create()
    waiting = asyncio.create_task(hub.stream().wait_for_end(run))
    await eventually(lambda: hub.watchers.count)
    stopping = ServiceError(Reason.SHUTTING_DOWN, "watch again after_sequence", retry_after=timedelta(seconds=1))
    hub.watchers.end(stopping)
    with pytest.raises(ServiceError) as failure:
        await waiting
    assert (failure.value.reason, failure.value.retry_after) == (Reason.SHUTTING_DOWN, stopping.retry_after)
    assert failure.value.metadata == {"run_id": run.id}
    assert f"run {run.id} goes on" in failure.value.message
    assert "after_sequence" not in failure.value.message
