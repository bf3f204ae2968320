"""Watching runs: ordered, unique, reliable, resumable.

A watcher first subscribes, then reads, then follows. What wakes it is a hint; what it gets is read from the history by
sequence. One read serves all watchers that were woken, and a poll finds changes of which no hint arrived.
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from playbooks.runs.v1.run_pb2 import Run

from runs_service.store import History
from runs_service.watching.subscription import BUFFER, Subscription
from servicekit.background.tasks import Worker
from servicekit.errors import Reason, ServiceError

logger = logging.getLogger(__name__)

CHANGES_CHANNEL = "run_changes"  # of LISTEN and NOTIFY
POLL = 1.0  # seconds; only while there are watchers


def hints(changes: Iterable[Run]) -> list[str]:
    """Return the hints for other processes: which runs changed, and the sequences they have reached."""
    return [f"{run_id}:{sequence}" for run_id, sequence in {run.id: run.sequence for run in changes}.items()]


class Watchers(Worker):
    """All watchers of runs at this process."""

    def __init__(self, history: History, *, poll: float = POLL) -> None:
        super().__init__()
        self._history = history
        self._poll = poll
        self._subscriptions: dict[str, set[Subscription]] = {}
        self._woken: set[str] = set()
        self._arrived = asyncio.Event()
        self._ended: ServiceError | None = None
        self.count = 0  # of subscriptions; the thread of the metrics reads it, and must not iterate over our sets

    @contextlib.contextmanager
    def subscribe(self, run_id: str) -> Iterator[Subscription]:
        """Enter a subscription to a run."""
        subscription = Subscription(run_id, self.wake)
        subscriptions = self._subscriptions.setdefault(run_id, set())
        subscriptions.add(subscription)
        self.count += 1
        self._arrived.set()  # the first subscription starts the poll
        if self._ended:
            subscription.end(self._ended)
        try:
            yield subscription
        finally:
            self.count -= 1
            subscriptions.discard(subscription)
            if not subscriptions:
                del self._subscriptions[run_id]

    def deliver(self, changes: Sequence[Run]) -> None:
        """Deliver changes that this process has committed; watchers that are further behind are woken."""
        for change in changes:
            for subscription in self._subscriptions.get(change.id, ()):
                subscription.deliver(change)
        self.on_notification(" ".join(hints(changes)))

    def on_notification(self, payload: str) -> None:
        """Wake the watchers that lack the changes in these hints."""
        for hint in payload.split():
            run_id, _, sequence = hint.partition(":")
            self._wake(run_id, int(sequence))

    def wake(self, run_id: str) -> None:
        """Read on for a run, if it is watched here."""
        self._wake(run_id, None)

    def wake_all(self) -> None:
        """Read on for every watched run: hints may have been lost."""
        for run_id in self._subscriptions:
            self.wake(run_id)

    def end(self, error: ServiceError) -> None:
        """End all subscriptions, and those to come, with `error`: this process is stopping."""
        self._ended = error
        for subscriptions in self._subscriptions.values():
            for subscription in subscriptions:
                subscription.end(error)

    def _wake(self, run_id: str, sequence: int | None) -> None:
        # A list, so that all are asked: one that does not follow yet remembers the hint.
        wakes = [subscription.should_wake(sequence) for subscription in self._subscriptions.get(run_id, ())]
        if any(wakes):
            self._woken.add(run_id)
            self._arrived.set()

    async def run(self) -> None:
        """Deliver changes until cancelled."""
        loop = asyncio.get_running_loop()
        polled = loop.time()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(polled + self._poll if self._subscriptions else None):
                    await self._arrived.wait()
            self._arrived.clear()
            woken, self._woken = self._woken, set()
            # By the clock and not by silence: hints about one run must not put off the poll for the others.
            if loop.time() >= polled + self._poll:
                woken, polled = set(self._subscriptions), loop.time()
            await self._read(woken)

    async def _read(self, run_ids: set[str]) -> None:
        positions = {
            run_id: min(s.position for s in ready if s.position is not None)
            for run_id in run_ids
            if (ready := [s for s in self._subscriptions.get(run_id, ()) if s.ready])
        }
        if not positions:
            return
        try:
            changes, deleted = await self._history.after(positions, limit=BUFFER)
        except ServiceError as error:
            logger.log(self._reminder.level_for(error), "watchers wait: %s", error)
            return
        for change in changes:
            for subscription in self._subscriptions.get(change.id, ()):
                subscription.deliver(change)
        for run_id in deleted:
            for subscription in self._subscriptions.get(run_id, ()):
                subscription.end(_deleted(run_id))
        for run_id, count in Counter(change.id for change in changes).items():
            if count == BUFFER:
                self.wake(run_id)  # there may be more


def _deleted(run_id: str) -> ServiceError:
    return ServiceError(
        Reason.RUN_NOT_FOUND, f"run {run_id} was deleted while it was watched", metadata={"run_id": run_id}
    )
