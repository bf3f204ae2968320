"""What each project may ask for: so many creates a second, and so many runs that are queued."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta

from runs_service.store import RunStore
from servicekit.errors import Reason, ServiceError
from servicekit.rpc.capacity import Capacity
from servicekit.rpc.rates import Rates
from servicekit.telemetry.metrics import Metrics

BURST = 2.0  # seconds' worth of creates that a project may make at once
RETRY_AFTER = timedelta(seconds=1)
# Seconds after which a refusal is answered. A caller that ignores RetryInfo would otherwise keep the process busy with
# refusals, and other projects' calls waiting.
REFUSAL_DELAY = 1.0
RATE, QUEUED = "creates_per_second", "queued_runs"  # in the metric limits_reached


class Intake:
    """Admits creates of runs, project by project. Both limits are those of one process; `queued` is approximate, see
    Capacity."""

    def __init__(self, store: RunStore, metrics: Metrics, *, per_second: float, queued: int) -> None:
        self._per_second = per_second
        self._queued = queued
        self._limits_reached = metrics.limits_reached
        self._rates = Rates(per_second=per_second, burst=BURST, now=time.monotonic)
        self._capacity = Capacity(queued, store.runs.queued, now=time.monotonic)

    async def admit(self, project_id: str, is_repeat: Callable[[], Awaitable[bool]]) -> None:
        """Return when a project may create a run, or when the run is there already, which `is_repeat` is asked before
        a refusal: nobody else pays for that question.

        Raises ServiceError (CREATE_RATE_EXCEEDED, QUEUE_FULL).
        """
        if not self._rates.take(project_id):
            limit = RATE
        elif not await self._capacity.take(project_id):
            limit = QUEUED
        else:
            return
        if await is_repeat():
            return
        self._limits_reached.labels(limit).inc()
        # Not all after the same time, or their callers would come back all at once.
        await asyncio.sleep(REFUSAL_DELAY * random.uniform(0.5, 1.5))  # noqa: S311
        raise self._refusal(limit, project_id)

    def _refusal(self, limit: str, project_id: str) -> ServiceError:
        if limit == RATE:
            reason = Reason.CREATE_RATE_EXCEEDED
            message = (
                f"project {project_id!r} creates more than {self._per_second:g} runs a second; wait a moment, and "
                "create them more slowly"
            )
        else:
            reason = Reason.QUEUE_FULL
            message = (
                f"project {project_id!r} has about {self._queued:,} runs that wait for an executor; create more when "
                "some of them have begun, or cancel some"
            )
        return ServiceError(reason, message, metadata={"project_id": project_id}, retry_after=RETRY_AFTER)
