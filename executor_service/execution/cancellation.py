"""Ending runs from outside their own work: cancels, and the deadlines of runs that wait."""

import asyncio
import logging
from collections.abc import Sequence
from itertools import chain, repeat
from uuid import UUID

from executor_service.domain.execution import Job, Outcome, State, Status
from executor_service.execution.event_publisher import EventPublisher
from executor_service.execution.inbox import FOREIGN
from executor_service.execution.leases import Leases
from executor_service.execution.outcomes import deadline_exceeded, outcome_of
from executor_service.store.executions import Executions
from executor_service.store.jobs import Jobs
from executor_service.store.outcomes import Outcomes
from servicekit.background.tasks import Ticker
from servicekit.errors import Reason, ServiceError
from servicekit.postgres.database import Database

logger = logging.getLogger(__name__)

BATCH = 500
SWEEP_INTERVAL = 5.0  # seconds
LOCKED_PAUSES = (0.05, 0.1, 0.2, 0.4)  # seconds between attempts at runs that are being written; the last one repeats


class Cancellation:
    """Ends executions in the database, and revokes the leases that this process has on them.

    From the commit on the database refuses every write of the work. Other processes notice with their next heartbeat.
    """

    def __init__(self, database: Database, leases: Leases, publisher: EventPublisher) -> None:
        self._database = database
        self._leases = leases
        self._publisher = publisher

    async def cancel(self, jobs: Sequence[Job]) -> list[State]:
        """Cancel the runs that have not ended, also those that never arrived; return the terminal states of all.

        Waits for runs that are being ended by their own work. Raises ServiceError: VALIDATION_FAILED, and nothing is
        cancelled, when a run is here as another project's.
        """
        run_ids = [job.run_id for job in jobs]
        pauses = chain(LOCKED_PAUSES, repeat(LOCKED_PAUSES[-1]))
        while True:
            async with self._database.transaction() as connection:
                stored = await Jobs(connection).enqueue(jobs)
                if stored < len(jobs) and (foreign := await Jobs(connection).foreign(jobs)):
                    field = f"jobs[{jobs.index(foreign[0])}].run_id"
                    raise ServiceError(Reason.VALIDATION_FAILED, FOREIGN, field=field)
                cancelled = await Outcomes(connection).end(run_ids, Outcome(Status.CANCELLED))
                states = await Executions(connection).states(run_ids)
            self._report(cancelled)
            if all(state.status.is_terminal for state in states):
                return states
            await asyncio.sleep(next(pauses))

    async def cancel_known(self, run_ids: Sequence[UUID]) -> None:
        """Cancel those of the runs that are here and have not ended, but for those that are being written."""
        self._report(await Outcomes(self._database).end(run_ids, Outcome(Status.CANCELLED)))

    async def fail_overdue(self) -> int:
        """Fail runs that waited for a slot past their deadline; return how many."""
        outcome = outcome_of(deadline_exceeded(), request_id="")
        outcomes = Outcomes(self._database)
        run_ids = await outcomes.overdue(limit=BATCH)
        failed = await outcomes.end(run_ids, outcome) if run_ids else []
        self._report(failed)
        return len(failed)

    def _report(self, states: Sequence[State]) -> None:
        for state in states:
            logger.info(
                "run %s ended %s%s",
                state.run_id,
                state.status.value,
                f" ({state.ai_usage})" if state.ai_usage else "",
                extra={"run_id": str(state.run_id), "project_id": state.project_id},
            )
            self._leases.revoke(state.run_id)
            self._publisher.report(state)


class DeadlineSweeper(Ticker):
    """Fails runs that wait past their deadline. For running ones the pipeline does."""

    def __init__(self, cancellation: Cancellation) -> None:
        super().__init__(SWEEP_INTERVAL)
        self._cancellation = cancellation

    async def tick(self) -> None:
        """Fail one batch."""
        if await self._cancellation.fail_overdue() == BATCH:
            self.wake()
