"""Events for runs_service. The row is the outbox: a sweep finds what was not published."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from uuid import UUID

from playbooks.executor.v1.job_pb2 import RunEventBatch

from executor_service import messages
from executor_service.domain.execution import State
from executor_service.store.outbox import Outbox
from servicekit.background.batching import Conflator
from servicekit.background.outbox import SWEEP_AGE, OutboxMarks
from servicekit.background.tasks import Ticker
from servicekit.broker import BrokerUnavailable, Publisher
from servicekit.failpoints import FailPoint, reached
from servicekit.postgres.database import Database
from servicekit.telemetry.trace_context import current_traceparent
from servicekit.telemetry.tracing import OFF, RUN_ATTRIBUTE, Kind, Tracing, is_recording, now

logger = logging.getLogger(__name__)

EVENTS_QUEUE = "events"  # after BROKER_QUEUE_PREFIX
BATCH = 500  # events in one broker message
START_EVENT_DELAY = 0.01  # seconds
SWEEP_INTERVAL = 5.0  # seconds


class EventPublisher(Conflator[UUID, State]):
    """Publishes changes after their commit, and notes in their rows that it did.

    A change is the whole state of its execution, so of several that wait for the same publish only the newest goes out.
    Without a broker only subscribers in this process get changes; runs_service reads the rest by ExecuteRun and
    ReconcileRuns.
    """

    def __init__(self, database: Database, publisher: Publisher | None, tracing: Tracing = OFF) -> None:
        super().__init__(limit=BATCH)
        self._outbox = Outbox(database)
        self.marks: OutboxMarks[UUID, State] = OutboxMarks(self._mark)
        self._publisher = publisher
        self._tracing = tracing
        self._subscribers: defaultdict[UUID, set[asyncio.Queue[State]]] = defaultdict(set)
        self._soon: dict[UUID, asyncio.TimerHandle] = {}

    def report_soon(self, state: State) -> None:
        """Pass on a change, unless a newer one follows within a moment: a short run is one event."""
        self._soon[state.run_id] = asyncio.get_running_loop().call_later(START_EVENT_DELAY, self.report, state)

    def report(self, state: State) -> None:
        """Pass on a change that has been committed: to subscribers at once, to the broker with the next batch.

        It belongs to the trace of the task that reports it.
        """
        if is_recording():
            state = state._replace(traceparent=current_traceparent())
        if soon := self._soon.pop(state.run_id, None):
            soon.cancel()
        for queue in self._subscribers.get(state.run_id, ()):
            queue.put_nowait(state)
        waiting = self.waiting(state.run_id)
        if waiting is None or waiting.number < state.number:  # two commits may be reported out of order
            self.put({state.run_id: state})

    @contextmanager
    def subscription(self, run_id: UUID) -> Iterator[asyncio.Queue[State]]:
        """Enter a queue of the changes of one run that this process makes."""
        queue: asyncio.Queue[State] = asyncio.Queue()
        self._subscribers[run_id].add(queue)
        try:
            yield queue
        finally:
            self._subscribers[run_id].discard(queue)
            if not self._subscribers[run_id]:
                del self._subscribers[run_id]

    async def handle(self, batch: Mapping[UUID, State]) -> None:
        """Publish one batch, and have it marked."""
        if await self.publish(list(batch.values())):
            self.marks.put(batch)

    async def publish(self, batch: Sequence[State]) -> bool:
        """Publish changes now; return whether the broker accepted them."""
        if self._publisher is None:
            return True
        reached(FailPoint.EXECUTOR_BEFORE_PUBLISH)
        since = now() if self._tracing.is_on else 0
        body = RunEventBatch(events=[messages.event(state) for state in batch]).SerializeToString()
        try:
            await self._publisher.publish(body)
        except BrokerUnavailable as error:
            logger.log(self._reminder.level_for(error), "%d events stay in the outbox: %s", len(batch), error)
            return False
        for state in batch:
            if state.traceparent:
                attributes = {RUN_ATTRIBUTE: str(state.run_id), "playbook.run.status": state.status.value}
                self._tracing.note("send event", Kind.PRODUCER, state.traceparent, since=since, attributes=attributes)
        reached(FailPoint.EXECUTOR_AFTER_PUBLISH)
        return True

    async def _mark(self, published: Mapping[UUID, State]) -> None:
        await self._outbox.mark_published(list(published.values()))


class OutboxSweeper(Ticker):
    """Publishes changes that were committed and never published."""

    def __init__(self, database: Database, publisher: EventPublisher, *, batch: int = BATCH) -> None:
        super().__init__(SWEEP_INTERVAL)
        self._batch = batch
        self._outbox = Outbox(database)
        self._publisher = publisher

    async def tick(self) -> None:
        """Publish what is left."""
        more = True
        while more:
            states = await self._outbox.unpublished(older_than=SWEEP_AGE, limit=self._batch)
            if not states or not await self._publisher.publish(states):
                return
            await self._outbox.mark_published(states)
            more = len(states) == self._batch
