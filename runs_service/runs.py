"""What can be done with runs. The servicer translates calls into these."""

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp
from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2 import CreateRunRequest

from runs_service import messages, transitions
from runs_service.delivery.cancellation import Stopper
from runs_service.delivery.dispatcher import Dispatcher
from runs_service.messages import NewRun
from runs_service.store import Dispatchable, Filters, RunStore, Stored
from runs_service.watching.hub import Watchers
from servicekit.background.batching import Batcher
from servicekit.clock import Clock
from servicekit.errors import Reason, ServiceError
from servicekit.failpoints import FailPoint, reached
from servicekit.ids import uuid7
from servicekit.rpc import page_tokens

logger = logging.getLogger(__name__)

CREATE_BATCH = 200  # runs inserted together
CROWD = 8  # callers of whom it is worth waiting for the last one: a batch costs as much as eight runs in it
DEFAULT_LIMIT = 20
MAX_LIMIT = 100
RETRYABLE = (Run.FAILED, Run.STALE, Run.CANCELLED)

Admitted = tuple[Run, bool]  # a run, and whether it is new
# Makes the run that a request asks for. Its batch does so: what is done for many in one go takes a third of the time
# that it takes between the steps of other calls, where the processor's caches hold something else.
MakeRun = Callable[[], NewRun]


class Runs:
    """The runs of all projects."""

    def __init__(
        self, store: RunStore, dispatcher: Dispatcher, stopper: Stopper, watchers: Watchers, clock: Clock
    ) -> None:
        self._store = store
        self._dispatcher = dispatcher
        self._stopper = stopper
        self._watchers = watchers
        self._clock = clock
        self.creations: Batcher[MakeRun, Admitted] = Batcher(self._create_many, limit=CREATE_BATCH, crowd=CROWD)

    async def create(self, request: CreateRunRequest, *, user_id: str, request_id: str) -> Admitted:
        """Return the run that `request` asks for, and whether it is new.

        Raises ServiceError (IDEMPOTENCY_KEY_REUSED) when its key stands for a different request.
        """
        return await self._admit(
            lambda: messages.new_run(
                request, run_id=uuid7(), user_id=user_id, request_id=request_id, now=self._clock.now()
            )
        )

    async def retry(self, project_id: str, run_id: str, *, key: str | None, user_id: str, request_id: str) -> Admitted:
        """Return a run that asks for the same as an ended one did, and whether it is new.

        Raises ServiceError (RUN_NOT_FOUND, RUN_NOT_RETRYABLE, IDEMPOTENCY_KEY_REUSED).
        """
        found = await self._store.runs.original(project_id, run_id)
        if found is None:
            raise _not_found(project_id, run_id)
        original, run = found
        if run.status not in RETRYABLE:
            status = Run.Status.Name(run.status)
            raise ServiceError(
                Reason.RUN_NOT_RETRYABLE,
                f"run {run_id} is {status}; only runs that FAILED, are STALE or were CANCELLED can be retried",
                metadata={"run_id": run_id, "status": status},
            )
        return await self._admit(
            lambda: messages.retry(
                original, key=key, run_id=uuid7(), user_id=user_id, request_id=request_id, now=self._clock.now()
            )
        )

    async def cancel(self, project_id: str, run_id: str, *, request_id: str) -> Run:
        """Cancel a run and return it as it is then. Raises ServiceError (RUN_NOT_FOUND)."""
        run = await self.get(project_id, run_id)
        if transitions.is_terminal(run.status):
            return run
        await self._stopper.cancel(Dispatchable(run, request_id))
        return await self.get(project_id, run_id)

    async def _admit(self, make: MakeRun) -> Admitted:
        run, created = await self.creations.submit(make)
        if created and self._dispatcher.waits_for_end:
            await self._dispatcher.handed_over(run.id)
            # Inline, the run has moved on meanwhile; the reply says how it stands now.
            run = await self.get(run.project_id, run.id)
        return run, created

    async def get(self, project_id: str, run_id: str) -> Run:
        """Return a run. Raises ServiceError (RUN_NOT_FOUND)."""
        run = await self._store.runs.get(project_id, run_id)
        if run is None:
            raise _not_found(project_id, run_id)
        return run

    async def page(self, filters: Filters, *, limit: int, offset: int, page_token: str) -> tuple[list[Run], str]:
        """Return a page of runs, newest first, and the token of the next one ("" on the last).

        `limit` 0 means 20, more than 100 means 100. Raises ServiceError (PAGE_TOKEN_INVALID, VALIDATION_FAILED).
        """
        if offset and page_token:
            raise ServiceError(
                Reason.VALIDATION_FAILED, "offset does not go with page_token; leave one out", field="offset"
            )
        limit = min(limit or DEFAULT_LIMIT, MAX_LIMIT)
        query = [
            "ListRuns", filters.project_id, filters.playbook_id, filters.run_type, filters.scope_id, filters.status
        ]  # fmt: skip
        before = None
        if page_token:
            before = _position(*page_tokens.decode(page_token, query=query, parts=2))
        runs = await self._store.runs.page(filters, limit=limit + 1, offset=offset, before=before)
        if len(runs) <= limit:
            return runs, ""
        last = runs[limit - 1]
        position = [last.created_at.ToJsonString(), last.id]
        return runs[:limit], page_tokens.encode(position, query=query)

    async def check_resumable(self, run: Run, after_sequence: int) -> None:
        """Check that the history of `run` after a sequence can be told without a gap.

        Raises ServiceError: SEQUENCE_EXPIRED when part of it is not kept any more, VALIDATION_FAILED when the
        run has not come that far.
        """
        if after_sequence > run.sequence:
            raise ServiceError(
                Reason.VALIDATION_FAILED,
                f"the run is at sequence {run.sequence}; after_sequence must be a sequence you were sent",
                field="after_sequence",
            )
        if after_sequence == run.sequence:
            return
        oldest = await self._store.history.oldest_sequence(run.id) or run.sequence + 1
        if after_sequence < oldest - 1:
            raise ServiceError(
                Reason.SEQUENCE_EXPIRED,
                f"changes before sequence {oldest} are not kept any more; watch without after_sequence to start "
                "from a snapshot",
                metadata={"oldest_sequence": str(oldest)},
            )

    async def ended(self, run: Run) -> Run:
        """Return `run` once it has ended; waits for as long as the caller does. Raises ServiceError (SHUTTING_DOWN)."""
        with self._watchers.subscribe(run.id) as subscription:
            run = await self.get(run.project_id, run.id)
            subscription.follow(run.sequence, newest=run.sequence)
            while not transitions.is_terminal(run.status):
                try:
                    run = await subscription.next()
                except ServiceError as error:
                    raise _left_early(run, error) from error
        return run

    async def _create_many(self, makers: Sequence[MakeRun]) -> list[Admitted | Exception]:
        made = [_made(make) for make in makers]
        wanted = [new for new in made if isinstance(new, NewRun)]
        stored = await self._store.runs.create(wanted)
        reached(FailPoint.RUNS_AFTER_COMMIT)
        both = list(zip(wanted, stored, strict=True))
        self._dispatcher.dispatch([Dispatchable(found.run, new.request_id) for new, found in both if found.created])
        admitted = iter([_told(new, found) for new, found in both])
        return [next(admitted) if isinstance(new, NewRun) else new for new in made]


def _made(make: MakeRun) -> NewRun | Exception:
    try:
        return make()
    except Exception as error:  # raised where this run is waited for
        return error


def _told(wanted: NewRun, stored: Stored) -> Admitted | ServiceError:
    """Return what to tell the caller, and log it."""
    run = stored.run
    if not stored.created and wanted.has_own_key and not stored.same_request:
        return ServiceError(
            Reason.IDEMPOTENCY_KEY_REUSED,
            f"idempotency_key {run.idempotency_key!r} belongs to run {run.id}, which was asked for with other "
            "values; use a new key for a new request, or send the same values to get that run",
            metadata={"run_id": run.id},
        )
    logger.info(
        "[AutomationPlaybookRunsService] Created run %s"
        if stored.created
        else "[AutomationPlaybookRunsService] Returning existing run %s",
        run.id,
        extra={"request_id": wanted.request_id, "run_id": run.id},
    )
    return run, stored.created


def _left_early(run: Run, error: ServiceError) -> ServiceError:
    """Return what to tell who waits for the end of a run at a server that stops: it is no watcher."""
    return ServiceError(
        error.reason,
        f"this server is stopping, and run {run.id} goes on; GetRun shows how it stands, WatchRun waits for its end",
        metadata={"run_id": run.id},
        retry_after=error.retry_after,
    )


def _position(created_at: str, run_id: str) -> tuple[datetime, UUID]:
    """Return the place that a page token names. Raises ServiceError (PAGE_TOKEN_INVALID) unless we wrote it like that.

    Other spellings of a time may have no time zone, or one that leads out of the years that there are.
    """
    time, written = Timestamp(), Timestamp()
    try:
        time.FromJsonString(created_at)
        place = time.ToDatetime(UTC), UUID(run_id)
        written.FromDatetime(place[0])
        if (written.ToJsonString(), str(place[1])) != (created_at, run_id):
            raise ValueError
    except (ValueError, OverflowError) as error:
        raise page_tokens.refused() from error
    return place


def _not_found(project_id: str, run_id: str) -> ServiceError:
    return ServiceError(
        Reason.RUN_NOT_FOUND,
        f"project {project_id!r} has no run {run_id}; ListRuns shows those it has",
        metadata={"run_id": run_id},
    )
