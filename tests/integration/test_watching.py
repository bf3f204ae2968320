"""Watchers and RunStream over a real PostgreSQL: what a watcher of a run gets, and how its watch ends."""

import asyncio
from datetime import timedelta

import pytest
from playbooks.runs.v1.run_pb2 import Run

from runs_service.watching.subscription import BUFFER
from servicekit.errors import Reason, ServiceError
from servicekit.postgres.database import Database
from tests.support.run_watching import HEARTBEAT, SNAPSHOT, UPDATED, Hub, Watching, updates
from tests.support.waiting import eventually


async def test_a_watcher_gets_a_snapshot_at_once_then_every_change_then_the_end(hub: Hub) -> None:
    run = await hub.create()
    async with Watching(hub, run) as watcher:
        await eventually(lambda: watcher.seen == [(SNAPSHOT, 1)])
        for _ in range(5):
            await hub.change(run)
        await hub.change(run, Run.SUCCEEDED)
        await watcher.ends()
    assert watcher.seen == [(SNAPSHOT, 1), *updates(2, 7)]
    assert watcher.sent[-1].run == await hub.store.runs.get("p", run.id)


async def test_a_change_without_a_hint_is_found_by_the_poll(hub: Hub) -> None:
    run = await hub.create()
    async with Watching(hub, run) as watcher:
        await eventually(lambda: watcher.seen)
        await hub.change(run, hint=False)
        await eventually(lambda: watcher.seen == [(SNAPSHOT, 1), (UPDATED, 2)])


async def test_hints_about_other_runs_do_not_put_off_the_poll(hub: Hub) -> None:
    quiet, busy = await hub.create(), await hub.create()
    async with Watching(hub, quiet) as watcher, Watching(hub, busy):
        await eventually(lambda: watcher.seen)
        await hub.change(quiet, hint=False)

        def found() -> bool:
            hub.watchers.wake(busy.id)
            return len(watcher.seen) == 2

        await eventually(found)


@pytest.mark.parametrize("after", [0, 1, 3, 5])
async def test_a_resumed_watcher_gets_what_it_missed_and_no_snapshot(after: int, hub: Hub) -> None:
    run = await hub.create()
    await hub.change(run, times=4)
    async with Watching(hub, run, after) as watcher:
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
    async with Watching(hub, run, after) as watcher:
        await watcher.ends()
    assert watcher.seen == expected


async def test_a_history_longer_than_the_buffer_arrives_whole(hub: Hub) -> None:
    run = await hub.create()
    length = 5 * BUFFER + 7
    await hub.change(run, times=length)
    await hub.change(run, Run.SUCCEEDED)
    async with Watching(hub, run, 0) as watcher:
        await watcher.ends()
    assert watcher.seen == updates(1, length + 2)


async def test_a_watcher_that_resumes_far_behind_delays_no_other(hub_without_poll: Hub) -> None:
    hub = hub_without_poll
    run = await hub.create()
    await hub.change(run, times=3 * BUFFER)
    async with Watching(hub, run) as current:
        await eventually(lambda: current.seen)
        async with Watching(hub, run, 0) as behind:
            behind.reading.clear()
            await hub.change(run)
            await eventually(lambda: len(current.seen) == 2)
            behind.reading.set()
            await eventually(lambda: behind.seen == updates(1, 3 * BUFFER + 2))
    assert current.seen[-1] == (UPDATED, 3 * BUFFER + 2)


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
    async with Watching(hub, run, heartbeat_after=0.05) as watcher:
        await eventually(lambda: watcher.seen[:3] == [(SNAPSHOT, 1), (HEARTBEAT, 1), (HEARTBEAT, 1)])
        await hub.change(run)
        await eventually(lambda: watcher.seen[-2:] == [(UPDATED, 2), (HEARTBEAT, 2)])
    assert watcher.sent[-1].run == watcher.sent[-2].run


async def test_no_heartbeat_names_a_sequence_that_was_not_sent(runs_database: Database) -> None:
    hub = Hub(runs_database)  # its watchers do not run: no change is delivered
    run = await hub.create()
    await hub.change(run, times=3)
    async with Watching(hub, run, 1, heartbeat_after=0.01) as behind, Watching(hub, run, 4, heartbeat_after=0.01) as up:
        await eventually(lambda: len(up.seen) > 3)
        assert set(up.seen) == {(HEARTBEAT, 4)}
        assert behind.seen == []


async def test_a_watcher_that_does_not_read_is_cut_off_and_slows_nobody(hub: Hub) -> None:
    run = await hub.create()
    async with Watching(hub, run, write_timeout=1.0) as slow, Watching(hub, run) as quick:
        await eventually(lambda: slow.seen and quick.seen)
        slow.reading.clear()
        await hub.change(run, times=3 * BUFFER)
        await eventually(lambda: len(quick.seen) == 1 + 3 * BUFFER)
        with pytest.raises(ServiceError) as failure:
            await slow.ends()
        assert failure.value.reason is Reason.WATCHER_TOO_SLOW
        position = slow.seen[-1][1]
    async with Watching(hub, run, position) as resumed:
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
    async with Watching(hub, run, after) as watcher:
        with pytest.raises(ServiceError) as failure:
            await watcher.ends()
    assert failure.value.reason is reason
    assert watcher.seen == []


async def test_a_sequence_that_is_not_kept_expires_and_the_oldest_is_named(hub: Hub, runs_database: Database) -> None:
    run = await hub.create()
    await hub.change(run, times=4)
    await runs_database.execute("DELETE FROM runs.run_events WHERE sequence < 3")
    async with Watching(hub, run, 1) as watcher:
        with pytest.raises(ServiceError) as failure:
            await watcher.ends()
    assert failure.value.reason is Reason.SEQUENCE_EXPIRED
    assert failure.value.metadata == {"oldest_sequence": "3"}
    async with Watching(hub, run, 2) as watcher:
        await eventually(lambda: watcher.seen == updates(3, 5))


async def test_a_run_whose_whole_history_is_gone_has_expired(hub: Hub, runs_database: Database) -> None:
    run = await hub.create()
    await hub.change(run, Run.SUCCEEDED)
    await runs_database.execute("DELETE FROM runs.run_events")
    async with Watching(hub, run, 1) as watcher:
        with pytest.raises(ServiceError) as failure:
            await watcher.ends()
    assert failure.value.reason is Reason.SEQUENCE_EXPIRED


async def test_stopping_ends_all_watchers_and_those_to_come(hub: Hub) -> None:
    run = await hub.create()
    stopping = ServiceError(Reason.SHUTTING_DOWN, "bye")
    async with Watching(hub, run) as early:
        await eventually(lambda: early.seen)
        hub.watchers.end(stopping)
        async with Watching(hub, run) as late:
            for watcher in (early, late):
                with pytest.raises(ServiceError) as failure:
                    await watcher.ends()
                assert failure.value.reason is Reason.SHUTTING_DOWN


async def test_watchers_outlive_a_database_that_fails(
    hub: Hub, runs_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await hub.create()
    async with Watching(hub, run) as watcher:
        await eventually(lambda: watcher.seen)
        failed = asyncio.Event()

        async def fail(*_: object, **__: object) -> list[Run]:
            failed.set()
            raise ServiceError(Reason.DATABASE_UNAVAILABLE, "gone")

        with monkeypatch.context() as patched:
            patched.setattr(hub.store.history, "after", fail)
            await hub.change(run)
            await failed.wait()
        await eventually(lambda: watcher.seen == [(SNAPSHOT, 1), (UPDATED, 2)])


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
