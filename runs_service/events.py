"""What executors tell about runs, applied to the runs."""

import logging
from collections.abc import Callable, Sequence

import protovalidate
from playbooks.executor.v1.job_pb2 import RunEvent, RunEventBatch
from playbooks.runs.v1.run_pb2 import Run

from runs_service import transitions
from runs_service.store import RunStore
from servicekit.broker import DeadLetter
from servicekit.broker.batches import BatchReader
from servicekit.clock import Clock
from servicekit.failpoints import FailPoint, reached

logger = logging.getLogger(__name__)

EVENTS_QUEUE = "events"  # after BROKER_QUEUE_PREFIX
MAX_EVENTS = 500  # in one broker message, as in the proto
FOREIGN = "it names another project than its run's"
ODD_TIME = "started_at or finished_at has nanos beyond a second"


class EventApplier:
    """Applies events and announces the runs they changed. Applying an event again changes nothing."""

    def __init__(self, store: RunStore, clock: Clock, *, announce: Callable[[Sequence[Run]], None]) -> None:
        self._store = store
        self._clock = clock
        self._announce = announce
        self._reader: BatchReader[RunEvent] = BatchReader(
            RunEventBatch, limit=MAX_EVENTS, name=lambda event: f"run {event.run_id[:40]!r}"
        )

    async def apply(self, events: Sequence[RunEvent]) -> None:
        """Apply the `events` of an executor's answer, in order, then announce the runs that changed.

        Raises ServiceError. Events that break a rule are logged and change nothing.
        """
        good = [event for event in events if not protovalidate.collect_violations(event, fail_fast=True)]
        if len(good) < len(events):
            logger.error("%d events in an executor's answer break the rules in their proto", len(events) - len(good))
        for event, why in await self._applied(good):
            logger.error("an event of run %s is ignored: %s", event.run_id, why)

    async def consume(self, bodies: Sequence[bytes]) -> list[DeadLetter]:
        """Apply the events in broker messages; return what is refused. Raises ServiceError: deliver them again."""
        events, dead = await self._reader.read(bodies)
        refused = await self._applied(events)
        reached(FailPoint.RUNS_BEFORE_ACK)
        return dead + self._reader.refused(refused)

    async def _applied(self, events: Sequence[RunEvent]) -> list[tuple[RunEvent, str]]:
        """Apply events that keep the rules in their proto; return those that are refused, and why."""
        refused = [(event, ODD_TIME) for event in events if not _times_are_valid(event)]
        if refused:
            events = [event for event in events if _times_are_valid(event)]
        changed, foreign = await self._store.change(events, self._changes)
        self._announce(changed)
        for run in changed:
            if transitions.is_terminal(run.status):
                logger.info("run %s ended %s", run.id, Run.Status.Name(run.status), extra={"run_id": run.id})
        return refused + [(event, FOREIGN) for event in foreign]

    def _changes(self, run: Run, event: RunEvent) -> Sequence[Run]:
        return transitions.changes(run, event, self._clock.now())


def _times_are_valid(event: RunEvent) -> bool:
    """Return whether JSON can hold the times of `event`: protovalidate checks their seconds only."""
    return 0 <= event.started_at.nanos < 1_000_000_000 and 0 <= event.finished_at.nanos < 1_000_000_000
