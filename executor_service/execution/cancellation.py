"""Ending runs that shall not go on, whoever works on them: cancels, and deadlines of runs that wait."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from itertools import chain, repeat
from uuid import UUID

from executor_service.execution.event_publisher import Reporter
from executor_service.execution.inbox import FOREIGN
from executor_service.execution.outcomes import outcome_of, overdue
from executor_service.records import Job, Outcome, State, Status
from executor_service.store import executions
from servicekit.background.tasks import Ticker
from servicekit.errors import Reason, ServiceError
from servicekit.postgres.database import Database

logger = logging.getLogger(__name__)

BATCH = 500
LOCKED_PAUSES = (0.05, 0.1, 0.2, 0.4)  # seconds between looks at runs that are being written; the last one repeats


class Stops:
    """Ends executions in the database; `abandon` stops the work on one in this process.

    From the commit on every write of the work is refused. Other processes notice with their next heartbeat.
    """

    def __init__(self, database: Database, reporter: Reporter, *, abandon: Callable[[UUID], None]) -> None:
        self._database = database
        self._reporter = reporter
        self._abandon = abandon

    async def cancel(self, jobs: Sequence[Job]) -> list[State]:
        """Cancel the runs that have not ended, also those that never arrived; return how all of them ended.

        One that is being ended by its own work is waited for. Raises ServiceError: VALIDATION_FAILED, and nothing is
        cancelled, when a run is here as another project's.
        """
        run_ids = [job.run_id for job in jobs]
        pauses = chain(LOCKED_PAUSES, repeat(LOCKED_PAUSES[-1]))
        while True:
            async with self._database.transaction() as connection:
                stored = await executions.enqueue(connection, jobs)
                if stored < len(jobs) and (foreign := await executions.foreign(connection, jobs)):
                    field = f"jobs[{jobs.index(foreign[0])}].run_id"
                    raise ServiceError(Reason.VALIDATION_FAILED, FOREIGN, field=field)
                cancelled = await executions.end(connection, run_ids, Outcome(Status.CANCELLED))
                states = await executions.states(connection, run_ids)
            self._stopped(cancelled)
            if all(state.status.is_terminal for state in states):
                return states
            await asyncio.sleep(next(pauses))

    async def fail_overdue(self) -> int:
        """Fail runs that waited for a place past their deadline; return how many."""
        outcome = outcome_of(overdue(), request_id="")
        async with self._database.autocommit() as connection:
            run_ids = await executions.overdue(connection, limit=BATCH)
            failed = await executions.end(connection, run_ids, outcome) if run_ids else []
        self._stopped(failed)
        return len(failed)

    def _stopped(self, states: Sequence[State]) -> None:
        for state in states:
            logger.info("run %s ended %s", state.run_id, state.status.value, extra={"run_id": str(state.run_id)})
            self._abandon(state.run_id)
            self._reporter.report(state)


class DeadlineKeeper(Ticker):
    """Fails runs that wait past their deadline. Those that run keep it themselves."""

    def __init__(self, stops: Stops) -> None:
        super().__init__()
        self._stops = stops

    async def tick(self) -> None:
        """Fail one batch."""
        if await self._stops.fail_overdue() == BATCH:
            self.wake()
