"""One execution from its start to its outcome."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable

from executor_service import messages
from executor_service.domain.ai_usage import UsageMeter
from executor_service.domain.execution import Execution, Job, Lease, LeaseLost, Outcome, State, Status
from executor_service.domain.failures import FailedRun
from executor_service.execution.event_publisher import EventPublisher
from executor_service.execution.leases import Leases
from executor_service.execution.outcomes import OutcomeWriter, deadline_exceeded, outcome_of
from executor_service.execution.types import Effect, Work
from executor_service.store.outcomes import Outcomes
from servicekit.clock import Clock
from servicekit.errors import ServiceError
from servicekit.failpoints import FailPoint, reached
from servicekit.postgres.database import Database
from servicekit.telemetry import logs
from servicekit.telemetry.tracing import OFF, RUN_ATTRIBUTE, Kind, Span, Tracing, child, current_span

logger = logging.getLogger(__name__)

MAX_CRASHES = 3  # attempts whose executor died, after which a run is not tried again


class Pipeline:
    """Takes executions from their start to their outcome.

    Effects are written over `effects`, a pool of their own, since some take long. Outcomes without effects go through
    `outcomes`, which writes those of many runs with one statement.
    """

    def __init__(
        self,
        effects: Database,
        leases: Leases,
        outcomes: OutcomeWriter,
        publisher: EventPublisher,
        *,
        work: Callable[[Job], Work],
        clock: Clock,
        tracing: Tracing = OFF,
    ) -> None:
        self._effects = effects
        self._leases = leases
        self._outcomes = outcomes
        self._publisher = publisher
        self._work = work
        self._clock = clock
        self._tracing = tracing

    async def run(self, execution: Execution) -> bool:
        """Take an execution to its outcome and report it. Returns False when the database was away, and the execution
        was handed back to be claimed again."""
        with contextlib.ExitStack() as attempt:
            return await self._run(execution, attempt)

    async def _run(self, execution: Execution, attempt: contextlib.ExitStack) -> bool:
        lease = execution.lease
        try:
            state = await self._run_to_outcome(execution, attempt)
        except LeaseLost:
            self._leases.note_lost(lease)
        except ServiceError as error:
            logger.warning("run %s is interrupted: %s", lease.run_id, error)
            await self._leases.hand_back_when_possible(lease)
            return False
        else:
            self._report_outcome(state)
        return True

    async def _run_to_outcome(self, execution: Execution, attempt: contextlib.ExitStack) -> State:
        lease = execution.lease
        usage = UsageMeter(execution.state.ai_usage)
        try:
            job = self._start(execution, attempt)
            _guard_crashes(execution)
            async with self._deadline(job):
                result = await self._work(job).perform(lease, job, usage)
            self._leases.mark_committing(lease)
            if not isinstance(result, Outcome):
                return await self._commit_effect(lease, job, result, usage)
        except (LeaseLost, ServiceError):
            raise
        except Exception as error:
            self._leases.mark_committing(lease)
            result = _failure(error)
        with child("write outcome"):
            return await self._outcomes.submit((lease, result._replace(ai_usage=usage.total)))

    def _start(self, execution: Execution, attempt: contextlib.ExitStack) -> Job:
        job = messages.job_from(execution.job_body)
        logs.bind(request_id=job.request_id, run_id=str(job.run_id), project_id=job.project_id)
        if job.traceparent:
            attempt.enter_context(self._span(execution.lease, job))
        if execution.crashes < MAX_CRASHES:
            logger.info("[AutomationPlaybookRunProcessor] Processing run %s", job.run_id)
            self._publisher.report_soon(execution.state)
        return job

    def _span(self, lease: Lease, job: Job) -> contextlib.AbstractContextManager[Span]:
        """Return the span of an attempt. The first is a child of the call that created the run; a later one has a trace
        of its own with a link to it: nobody waits for hours in one trace."""
        attributes = {
            RUN_ATTRIBUTE: str(job.run_id),
            "playbook.project.id": job.project_id,
            "playbook.id": job.playbook.id,
        }
        if lease.attempt == 1:
            since = int(job.created_at.timestamp() * 1e9)
            self._tracing.note("claim", Kind.INTERNAL, job.traceparent, since=since, attributes=attributes)
        return self._tracing.follow(
            f"execute {job.run_type}",
            Kind.CONSUMER,
            job.traceparent,
            attributes={**attributes, "playbook.run.attempt": lease.attempt},
            link=lease.attempt > 1,
        )

    @contextlib.asynccontextmanager
    async def _deadline(self, job: Job) -> AsyncIterator[None]:
        """Keep a run's deadline within the block. Raises FailedRun when it passes."""
        seconds_left = max((job.deadline - self._clock.now()).total_seconds(), 0) if job.deadline else None
        try:
            async with asyncio.timeout(seconds_left) as deadline:
                yield
        except TimeoutError:
            if deadline.expired():
                raise deadline_exceeded() from None
            raise

    async def _commit_effect(self, lease: Lease, job: Job, effect: Effect, usage: UsageMeter) -> State:
        with child("write effect"):
            return await self._write(lease, job, effect, usage)

    async def _write(self, lease: Lease, job: Job, effect: Effect, usage: UsageMeter) -> State:
        async with self._effects.transaction() as connection:
            async with self._deadline(job):  # not around the commit: broken off, its result would be unknown
                await self._leases.lock_lease(connection, lease)
                outcome = await effect(connection)
                (state,) = await Outcomes(connection).finish([(lease, outcome._replace(ai_usage=usage.total))])
            if isinstance(state, LeaseLost):
                raise state
            reached(FailPoint.EXECUTOR_BEFORE_COMMIT)
        reached(FailPoint.EXECUTOR_AFTER_COMMIT)
        return state

    def _report_outcome(self, state: State) -> None:
        current_span().set({"playbook.run.status": state.status.value})
        if state.error_code:
            current_span().fail(state.error_code)
        if state.status is Status.SUCCEEDED:
            logger.info(
                "[AutomationPlaybookRunProcessor] Run %s completed successfully (aiUsed=%s)%s",
                state.run_id,
                str(state.ai_used).lower(),
                f"; {state.ai_usage}" if state.ai_usage else "",
            )
        else:
            logger.warning(
                "[AutomationPlaybookRunProcessor] Run %s ended %s (%s): %s%s",
                state.run_id,
                state.status.value,
                state.error_code,
                state.error_message,
                f" ({state.ai_usage})" if state.ai_usage else "",
            )
        self._publisher.report(state)


def _guard_crashes(execution: Execution) -> None:
    if execution.crashes >= MAX_CRASHES:
        raise FailedRun(
            "MAX_ATTEMPTS_EXCEEDED",
            f"The run was started {MAX_CRASHES} times and its executor died each time; it is not tried again. "
            "Nothing was changed. Look for what the executors logged about it before you retry it.",
            started=False,
        )


def _failure(error: Exception) -> Outcome:
    outcome = outcome_of(error, request_id=logs.bound("request_id"))
    if outcome.error_code == "INTERNAL_ERROR":
        logger.error("a run failed", exc_info=error)
    return outcome
