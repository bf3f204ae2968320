"""Watching runs: ordered, unique, reliable, resumable.

A watcher first registers, then reads, then follows. What wakes it is a hint; what it gets is read from the
history by sequence. One read serves all watchers that were woken, and a poll finds what no hint told.
"""

import asyncio
import contextlib
import logging
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Self

from playbooks.runs.v1.run_pb2 import Run

from runs_service.store import RunStore
from servicekit.background.tasks import Worker
from servicekit.errors import ServiceError

logger = logging.getLogger(__name__)

BUFFER = 128  # changes a watcher may lag behind before its reading is put off
POLL = 1.0  # seconds; only while somebody watches


def hints(changes: Iterable[Run]) -> list[str]:
    """Return what other processes are told of changes: the runs, and the sequences they have reached."""
    return [f"{run_id}:{sequence}" for run_id, sequence in {run.id: run.sequence for run in changes}.items()]


class Subscription:
    """One watcher's place in the history of one run. Enter it, then call `follow` to get changes.

    There are thousands, so it is small: an asyncio.Queue alone is 2.5 kB of deques.
    """

    __slots__ = ("_behind", "_buffer", "_reader", "_told", "_watchers", "position", "run_id")

    def __init__(self, run_id: str, watchers: "Watchers") -> None:
        self.run_id = run_id
        self.position: int | None = None  # the last sequence put into the buffer; None: not following yet
        self._watchers = watchers
        self._buffer: list[Run | ServiceError] = []
        self._reader: asyncio.Future[None] | None = None  # waits in `next`
        self._told = 0.0  # the newest sequence that was heard of before following
        self._behind = False  # a change found no room; reading goes on when the buffer is half empty

    def __enter__(self) -> Self:
        self._watchers.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._watchers.remove(self)

    @property
    def ready(self) -> bool:
        """Whether changes are wanted now."""
        return self.position is not None and not self._behind

    def hears(self, sequence: float) -> bool:
        """Take note of a change of this sequence, infinity: of an unknown one; tell whether there is something to
        read now."""
        if self.position is None:
            self._told = max(self._told, sequence)
        return self.ready and self.position is not None and self.position < sequence

    def follow(self, after: int, *, newest: int) -> None:
        """Want every change after this sequence; `newest` is the run's as it was read since subscribing."""
        self.position = after
        if max(self._told, newest) > after:
            self._watchers.wake([self.run_id])

    async def next(self) -> Run:
        """Return the next change. Raises ServiceError when the subscription was ended from our side."""
        while not self._buffer:
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        item = self._buffer.pop(0)
        if isinstance(item, ServiceError):
            raise item
        if self._behind and len(self._buffer) <= BUFFER // 2:
            self._behind = False
            self._watchers.wake([self.run_id])
        return item

    def deliver(self, change: Run) -> None:
        """Take the change that comes next, if there is room for it.

        Any other is passed over: it may be out of a read that began before this watcher followed, and to take
        it would skip what lies between.
        """
        if self.position is None or change.sequence != self.position + 1:
            return
        if len(self._buffer) >= BUFFER:
            self._behind = True
            return
        self.position = change.sequence
        self._put(change)

    def end(self, error: ServiceError) -> None:
        """Let the watcher's next read raise `error`."""
        self._put(error)

    def _put(self, item: Run | ServiceError) -> None:
        self._buffer.append(item)
        if self._reader and not self._reader.done():
            self._reader.set_result(None)


class Watchers(Worker):
    """Everybody who watches a run at this process."""

    def __init__(self, store: RunStore) -> None:
        super().__init__()
        self._store = store
        self._subscriptions: dict[str, set[Subscription]] = {}
        self._woken: set[str] = set()
        self._arrived = asyncio.Event()
        self._ended: ServiceError | None = None

    @property
    def count(self) -> int:
        """How many subscriptions there are."""
        return sum(len(subscriptions) for subscriptions in self._subscriptions.values())

    def subscribe(self, run_id: str) -> Subscription:
        """Return a subscription to a run, to be entered."""
        return Subscription(run_id, self)

    def add(self, subscription: Subscription) -> None:
        """Take in a watcher."""
        self._subscriptions.setdefault(subscription.run_id, set()).add(subscription)
        self._arrived.set()  # whoever is the first starts the poll
        if self._ended:
            subscription.end(self._ended)

    def remove(self, subscription: Subscription) -> None:
        """Forget a watcher."""
        of_run = self._subscriptions[subscription.run_id]
        of_run.discard(subscription)
        if not of_run:
            del self._subscriptions[subscription.run_id]

    def deliver(self, changes: Sequence[Run]) -> None:
        """Hand on changes that were committed by this process; who is further behind reads on."""
        for change in changes:
            for subscription in self._subscriptions.get(change.id, ()):
                subscription.deliver(change)
        self.hear(" ".join(hints(changes)))

    def hear(self, hint: str) -> None:
        """Read on for the runs in a hint, for watchers that do not have what it tells of."""
        for word in hint.split():
            run_id, _, sequence = word.partition(":")
            # A process of the version before this one names no sequence.
            self._wake(run_id, int(sequence) if sequence else math.inf)

    def wake(self, run_ids: Iterable[str]) -> None:
        """Read on for these runs, if anybody here watches them."""
        for run_id in run_ids:
            self._wake(run_id, math.inf)

    def wake_all(self) -> None:
        """Read on for every watched run: hints may have been missed."""
        self.wake(list(self._subscriptions))

    def end(self, error: ServiceError) -> None:
        """End all subscriptions, and those to come, with `error`: this process is about to stop."""
        self._ended = error
        for subscriptions in self._subscriptions.values():
            for subscription in subscriptions:
                subscription.end(error)

    def _wake(self, run_id: str, sequence: float) -> None:
        heard = [subscription.hears(sequence) for subscription in self._subscriptions.get(run_id, ())]
        if any(heard):
            self._woken.add(run_id)
            self._arrived.set()

    async def run(self) -> None:
        """Deliver changes until cancelled."""
        loop = asyncio.get_running_loop()
        polled = loop.time()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(polled + POLL if self._subscriptions else None):
                    await self._arrived.wait()
            self._arrived.clear()
            woken, self._woken = self._woken, set()
            # By the clock and not by silence: hints about one run must not put off the poll for the others.
            if loop.time() >= polled + POLL:
                woken, polled = set(self._subscriptions), loop.time()
            await self._deliver(woken)

    async def _deliver(self, run_ids: set[str]) -> None:
        positions = {
            run_id: min(s.position for s in ready if s.position is not None)
            for run_id in run_ids
            if (ready := [s for s in self._subscriptions.get(run_id, ()) if s.ready])
        }
        if not positions:
            return
        try:
            changes = await self._store.history.after(positions, limit=BUFFER)
        except ServiceError as error:
            logger.warning("watchers wait: %s", error)
            return
        for change in changes:
            for subscription in self._subscriptions.get(change.id, ()):
                subscription.deliver(change)
        read = Counter(change.id for change in changes)
        self.wake(run_id for run_id, count in read.items() if count == BUFFER)  # there may be more
