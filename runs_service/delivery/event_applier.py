"""Applying the events of executors to the runs, and what stands in for an event that no executor can send."""

import contextlib
import logging
from collections.abc import Callable, Sequence

from playbooks.executor.v1.job_pb2 import RunEvent, RunEventBatch
from playbooks.runs.v1.run_pb2 import Run

from runs_service import messages, transitions
from runs_service.store import RunStore
from servicekit.broker import DeadLetter
from servicekit.broker.batches import BatchReader, flaw_of
from servicekit.clock import Clock
from servicekit.errors import ServiceError
from servicekit.failpoints import FailPoint, reached
from servicekit.telemetry import logs
from servicekit.telemetry.tracing import OFF, RUN_ATTRIBUTE, Kind, Tracing, now

logger = logging.getLogger(__name__)

EVENTS_QUEUE = "events"  # after BROKER_QUEUE_PREFIX
RUN_ID = 36  # characters
NANOS = 1_000_000_000  # in a second
FOREIGN = "it names another project than its run's"
ODD_TIME = "started_at or finished_at has nanos beyond a second"


class EventApplier:
    """Changes runs by the events of executors, and announces the runs that changed.

    Applying an event again changes nothing.
    """

    def __init__(
        self, store: RunStore, clock: Clock, *, announce: Callable[[Sequence[Run]], None], tracing: Tracing = OFF
    ) -> None:
        self._store = store
        self._clock = clock
        self._announce = announce
        self._tracing = tracing
        self._reader: BatchReader[RunEvent] = BatchReader(
            RunEventBatch, name=lambda event: f"run {event.run_id[:RUN_ID]!r}"
        )

    async def apply(self, events: Sequence[RunEvent]) -> int:
        """Apply the `events` of an executor's answer, in order, then announce the runs that changed.

        Returns how many changes they made. Raises ServiceError. An event that is refused changes nothing and is logged.
        """
        good: list[RunEvent] = []
        for event in events:
            if event.number == 0 and event.status == Run.QUEUED:
                continue  # it waits for a slot at the executor, and nothing has changed yet
            if flaw := flaw_of(event):
                logger.error("an event of run %r is refused: %s", event.run_id[:RUN_ID], flaw)
            else:
                good.append(event)
        changes, refused = await self._apply(good)
        for event, why in refused:
            logger.error("an event of run %s is refused: %s", event.run_id, why)
        return changes

    async def consume(self, bodies: Sequence[bytes]) -> list[DeadLetter]:
        """Apply the events in broker messages; return those that are refused.

        After a ServiceError the broker delivers the messages again.
        """
        events, dead = await self._reader.read(bodies)
        _, refused = await self._apply(events)
        reached(FailPoint.RUNS_BEFORE_ACK)
        return dead + self._reader.refused(refused)

    async def cancel_queued(self, run_ids: Sequence[str]) -> None:
        """Cancel those of the runs that are QUEUED. Raises ServiceError."""
        self._announce(await self._store.history.cancel_queued(run_ids, self._clock.now()))

    async def fail_overdue(self, run_ids: Sequence[str]) -> int:
        """Fail those of the runs that have not ended: their deadline passed. Return how many. Raises ServiceError."""
        failed = await self._store.history.fail_overdue(run_ids, self._clock.now())
        self._announce(failed)
        return len(failed)

    async def _apply(self, events: Sequence[RunEvent]) -> tuple[int, list[tuple[RunEvent, str]]]:
        """Apply events that keep the rules in their proto.

        Returns how many changes they made, and those that are refused nevertheless, with the reason.
        """
        odd = [(event, ODD_TIME) for event in events if not _has_valid_times(event)]
        if odd:
            events = [event for event in events if _has_valid_times(event)]
        since = now() if self._tracing.is_on else 0
        changed, foreign = await self._store.history.apply_events(events, self._clock.now())
        self._announce(changed)
        if self._tracing.is_on:
            await self._note(events, changed, since)
        with logs.joined():
            for run in changed:
                if transitions.is_terminal(run.status):
                    logger.info("run %s ended %s", run.id, Run.Status.Name(run.status), extra=messages.log_fields(run))
        return len(changed), odd + [(event, FOREIGN) for event in foreign]

    async def _note(self, events: Sequence[RunEvent], changed: Sequence[Run], since: int) -> None:
        """Record that events were applied to runs whose trace is recorded."""
        runs = {run.id: run for run in changed if run.trace_id}
        if not runs:
            return
        traceparents = {event.run_id: event.traceparent for event in events if event.traceparent}
        # What a sweep or a reconciliation brings does not name its trace: the run's row does.
        if missing := [run_id for run_id in runs if run_id not in traceparents]:
            with contextlib.suppress(ServiceError):
                traceparents |= await self._store.outbox.traceparents(missing)
        for run_id, run in runs.items():
            attributes = {RUN_ATTRIBUTE: run_id, "playbook.run.status": Run.Status.Name(run.status)}
            traceparent = traceparents.get(run_id, "")
            self._tracing.note("apply event", Kind.CONSUMER, traceparent, since=since, attributes=attributes)


def _has_valid_times(event: RunEvent) -> bool:
    """Return whether JSON can hold the times of `event`: protovalidate checks their seconds only."""
    return 0 <= event.started_at.nanos < NANOS and 0 <= event.finished_at.nanos < NANOS
