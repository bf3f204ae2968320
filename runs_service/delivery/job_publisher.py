"""Jobs out to the executor over the broker."""

import asyncio
import logging
from collections.abc import Mapping, Sequence

from playbooks.executor.v1.job_pb2 import RunJobBatch

from runs_service import messages
from runs_service.store import Dispatchable, RunStore
from servicekit.background.batching import Batcher
from servicekit.background.outbox import OutboxMarks
from servicekit.broker import BrokerUnavailable, Publisher
from servicekit.failpoints import FailPoint, reached
from servicekit.telemetry.outages import Reminder
from servicekit.telemetry.tracing import OFF, RUN_ATTRIBUTE, Kind, Tracing, now

logger = logging.getLogger(__name__)

JOBS_QUEUE = "jobs"  # after BROKER_QUEUE_PREFIX
BATCH = 500  # jobs in one broker message, which has 4 MB at most: see messages.weight


class JobPublisher:
    """Publishes runs as jobs, many in one message. Needs `marks` and `batcher` to run."""

    def __init__(self, publisher: Publisher, store: RunStore, tracing: Tracing = OFF) -> None:
        self._publisher = publisher
        self._store = store
        self._reminder = Reminder()
        self._tracing = tracing
        self.marks: OutboxMarks[str, float] = OutboxMarks(self._mark)  # when runs were published, by id
        self.batcher: Batcher[Sequence[Dispatchable], None] = Batcher(self._publish, limit=BATCH, size=_weight)

    def publish(self, items: Sequence[Dispatchable]) -> asyncio.Future[None]:
        """Publish runs that fit into one message, and mark their rows later. The result raises BrokerUnavailable."""
        return self.batcher.submit(items)

    async def _publish(self, groups: Sequence[Sequence[Dispatchable]]) -> list[None]:
        items = [item for group in groups for item in group]
        since = now() if self._tracing.is_on else 0
        body = RunJobBatch(jobs=[messages.job(*item) for item in items])
        try:
            await self._publisher.publish(body.SerializeToString())
        except BrokerUnavailable as error:
            logger.log(self._reminder.level_for(error), "%d runs are not published yet: %s", len(items), error)
            raise
        reached(FailPoint.RUNS_AFTER_PUBLISH)
        published = asyncio.get_running_loop().time()
        self.marks.put({item.run.id: published for item in items})
        if self._tracing.is_on:
            self._note(items, since)
        return [None] * len(groups)

    def _note(self, items: Sequence[Dispatchable], since: int) -> None:
        for item in items:
            if not item.traceparent:
                continue
            attributes = {RUN_ATTRIBUTE: item.run.id, "messaging.operation.type": "send"}
            self._tracing.note("send job", Kind.PRODUCER, item.traceparent, since=since, attributes=attributes)

    async def _mark(self, published: Mapping[str, float]) -> None:
        current = asyncio.get_running_loop().time()
        await self._store.outbox.mark_dispatched({run_id: current - time for run_id, time in published.items()})


def _weight(items: Sequence[Dispatchable]) -> int:
    return sum(messages.weight(item.run) for item in items)
