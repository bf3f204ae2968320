"""What is read for watchers, and when: no change is missed between two reads."""

import asyncio
from collections.abc import Mapping
from datetime import timedelta

import pytest

from runs_service.store import History
from runs_service.store.history import Followed
from runs_service.store.version_cache import VersionCache
from runs_service.watching.hub import Watchers
from runs_service.watching.subscription import BUFFER
from servicekit.background.tasks import running
from servicekit.postgres.database import Database
from tests.support.run_watching import Hub
from tests.support.waiting import eventually


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
