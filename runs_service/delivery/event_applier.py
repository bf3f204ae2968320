"""Applying the events of executors to the runs."""

import logging
from collections.abc import Callable, Sequence

from google.protobuf.message import DecodeError
from playbooks.executor.v1.job_pb2 import RunEvent, RunEventBatch
from playbooks.runs.v1.run_pb2 import Run

from runs_service import transitions
from runs_service.store import RunStore
from servicekit.broker import DeadLetter
from servicekit.clock import Clock
from servicekit.failpoints import FailPoint, reached
from servicekit.rpc.validation import broken_rules

logger = logging.getLogger(__name__)

EVENTS_QUEUE = "events"  # after BROKER_QUEUE_PREFIX
RUN_ID = 36  # characters


class EventApplier:
    """Applies events and announces the runs they changed. Applying an event again changes nothing."""

    def __init__(self, store: RunStore, clock: Clock, *, announce: Callable[[Sequence[Run]], None]) -> None:
        self._store = store
        self._clock = clock
        self._announce = announce

    async def apply(self, events: Sequence[RunEvent]) -> None:
        """Apply `events` in order, then announce the runs that changed. Raises ServiceError."""
        changed = await self._store.change(events, self._changes)
        self._announce(changed)
        for run in changed:
            if transitions.is_terminal(run.status):
                logger.info("run %s ended %s", run.id, Run.Status.Name(run.status), extra={"run_id": run.id})

    async def consume(self, bodies: Sequence[bytes]) -> list[DeadLetter]:
        """Apply the events in broker messages; return those that cannot be read.

        After a ServiceError the broker delivers the messages again.
        """
        events: list[RunEvent] = []
        dead: list[DeadLetter] = []
        for body in bodies:
            try:
                batch = RunEventBatch.FromString(body).events
            except DecodeError as error:
                dead.append(DeadLetter(body, str(error)))
                continue
            for event in batch:
                if reason := _unreadable(event):
                    dead.append(DeadLetter(RunEventBatch(events=[event]).SerializeToString(), reason))
                else:
                    events.append(event)
        await self.apply(events)
        reached(FailPoint.RUNS_BEFORE_ACK)
        return dead

    def _changes(self, run: Run, event: RunEvent) -> Sequence[Run]:
        return transitions.changes(run, event, self._clock.now())


def _unreadable(event: RunEvent) -> str:
    """Return why an event can never be applied; "" when it can."""
    if broken := broken_rules(event):
        return f"run {event.run_id[:RUN_ID]}: {broken[0].field}: {broken[0].description}"
    return "a field has a NUL character, which PostgreSQL cannot store" if "\0" in event.scope_id else ""
