"""Creating, retrying and cancelling runs."""

import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NamedTuple

from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2 import CreateRunRequest

from runs_service import messages, transitions
from runs_service.delivery.cancellation import Canceller
from runs_service.delivery.dispatcher import Dispatcher
from runs_service.intake import Intake
from runs_service.messages import NewRun
from runs_service.queries import RunQueries, run_not_found
from runs_service.store import Dispatchable, RunStore, Stored
from servicekit.background.batching import Batcher
from servicekit.clock import Clock
from servicekit.errors import Reason, ServiceError
from servicekit.failpoints import FailPoint, reached
from servicekit.ids import uuid7
from servicekit.telemetry import logs
from servicekit.telemetry.trace_context import current_traceparent

logger = logging.getLogger(__name__)

CREATE_BATCH = 200  # runs inserted together
MAX_LINGER = 0.05  # seconds that a batch waits for a crowd of callers to come back; half of P1's batches would be small
RETRYABLE = (Run.FAILED, Run.STALE, Run.CANCELLED)

Admitted = tuple[Run, bool]  # a run, and whether it is new


class RunWanted(NamedTuple):
    """A run that a caller asks for: with a request, or, under its key or `key`, with the run that it retries.

    Plain data: the batch makes the runs of all its callers in one go, which takes half the time.
    """

    source: CreateRunRequest | NewRun
    user_id: str
    request_id: str
    key: str | None = None
    traceparent: str = ""

    def make(self, now: datetime) -> NewRun:
        """Return the run, created at `now`."""
        run_id, user_id, request_id, trace = uuid7(), self.user_id, self.request_id, self.traceparent
        if isinstance(self.source, NewRun):
            return messages.retry(
                self.source,
                key=self.key,
                run_id=run_id,
                user_id=user_id,
                request_id=request_id,
                now=now,
                traceparent=trace,
            )
        return messages.new_run(
            self.source, run_id=run_id, user_id=user_id, request_id=request_id, now=now, traceparent=trace
        )


class Runs:
    """Changes runs as their owners ask, and announces those it creates. Needs `creations` and `repeats` to run."""

    def __init__(
        self,
        store: RunStore,
        queries: RunQueries,
        dispatcher: Dispatcher,
        canceller: Canceller,
        clock: Clock,
        *,
        intake: Intake,
        announce: Callable[[Sequence[Run]], None],
    ) -> None:
        self._store = store
        self._queries = queries
        self._dispatcher = dispatcher
        self._canceller = canceller
        self._intake = intake
        self._clock = clock
        self._announce = announce
        self.creations: Batcher[RunWanted, Admitted] = Batcher(
            self._create_many, limit=CREATE_BATCH, max_linger=MAX_LINGER
        )
        # Whether what is wanted is there already. In batches: a project beyond its limits may ask thousands of times.
        self.repeats: Batcher[RunWanted, bool] = Batcher(self._are_repeats, limit=CREATE_BATCH)

    async def create(self, request: CreateRunRequest, *, user_id: str, request_id: str) -> Admitted:
        """Return the run that `request` asks for, and whether it is new; a repeated `request_id` gets the first answer.

        Raises ServiceError: IDEMPOTENCY_KEY_REUSED when its key, or its request_id, stands for a different request;
        CREATE_RATE_EXCEEDED, QUEUE_FULL.
        """
        wanted = RunWanted(request, user_id, request_id, traceparent=current_traceparent())
        return await self._admit(request.project_id, wanted)

    async def retry(self, project_id: str, run_id: str, *, key: str | None, user_id: str, request_id: str) -> Admitted:
        """Return the run that asks for the same as an ended one did, and whether it is new: there is one at most.

        Raises ServiceError (RUN_NOT_FOUND, RUN_NOT_RETRYABLE, IDEMPOTENCY_KEY_REUSED, CREATE_RATE_EXCEEDED,
        QUEUE_FULL).
        """
        found = await self._store.runs.original(project_id, run_id)
        if found is None:
            raise run_not_found(project_id, run_id)
        original, run = found
        if run.status not in RETRYABLE:
            status = Run.Status.Name(run.status)
            raise ServiceError(
                Reason.RUN_NOT_RETRYABLE,
                f"run {run_id} is {status}; only runs that FAILED, are STALE or were CANCELLED can be retried",
                metadata={"run_id": run_id, "status": status},
            )
        return await self._admit(project_id, RunWanted(original, user_id, request_id, key, current_traceparent()))

    async def cancel(self, project_id: str, run_id: str, *, request_id: str) -> Run:
        """Cancel a run and return it as it is then. Raises ServiceError (RUN_NOT_FOUND)."""
        run = await self._queries.get(project_id, run_id)
        if transitions.is_terminal(run.status):
            return run
        await self._canceller.cancel(Dispatchable(run, request_id, current_traceparent()))
        return await self._queries.get(project_id, run_id)

    async def _admit(self, project_id: str, wanted: RunWanted) -> Admitted:
        await self._intake.admit(project_id, lambda: self.repeats.submit(wanted))
        run, created = await self.creations.submit(wanted)
        if created and self._dispatcher.waits_for_end:
            await self._dispatcher.handed_over(run.id)
            # Inline, the run has moved on meanwhile; the reply says how it stands now.
            run = await self._queries.get(run.project_id, run.id)
        return run, created

    async def _are_repeats(self, wanted: Sequence[RunWanted]) -> list[bool]:
        now = self._clock.now()
        made = [_made(one, now) for one in wanted]
        there = await self._store.are_there([new for new in made if isinstance(new, NewRun)])
        # What cannot be made goes on, to the error that its creation raises.
        return [new.run.id in there if isinstance(new, NewRun) else True for new in made]

    async def _create_many(self, wanted: Sequence[RunWanted]) -> list[Admitted | Exception]:
        now = self._clock.now()
        made = [_made(one, now) for one in wanted]
        new_runs = [new for new in made if isinstance(new, NewRun)]
        results = list(zip(new_runs, await self._store.create(new_runs), strict=True))
        reached(FailPoint.RUNS_AFTER_COMMIT)
        created = [
            Dispatchable(stored.run, new.request_id, new.traceparent) for new, stored in results if stored.is_new
        ]
        self._dispatcher.dispatch(created)
        self._announce([item.run for item in created])
        with logs.joined():
            outcomes = iter([_outcome(new, stored) for new, stored in results])
        return [next(outcomes) if isinstance(new, NewRun) else new for new in made]


def _made(wanted: RunWanted, now: datetime) -> NewRun | Exception:
    try:
        return wanted.make(now)
    except Exception as error:  # raised to the one caller who asked for it, not to the whole batch
        return error


def _outcome(new: NewRun, stored: Stored) -> Admitted | ServiceError:
    """Return what the caller gets, and log it."""
    run = stored.run
    if stored.is_repeat and not stored.same_request:
        return ServiceError(
            Reason.IDEMPOTENCY_KEY_REUSED,
            f"request_id belongs to a call with other values, which led to run {run.id}; make a new request_id for a "
            "new call, or send the same values to get that run",
            metadata={"run_id": run.id},
        )
    if not stored.created and new.has_own_key and not stored.same_request:
        return ServiceError(
            Reason.IDEMPOTENCY_KEY_REUSED,
            f"idempotency_key {run.idempotency_key!r} belongs to run {run.id}, which was asked for with other "
            "values; use a new key for a new request, or send the same values to get that run",
            metadata={"run_id": run.id},
        )
    logger.info(
        "[AutomationPlaybookRunsService] Created run %s"
        if stored.is_new
        else "[AutomationPlaybookRunsService] Returning existing run %s",
        run.id,
        extra={**messages.log_fields(run), "request_id": new.request_id},
    )
    return run, stored.created
