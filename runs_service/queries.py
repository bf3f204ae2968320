"""Reading runs: one, a page of them, and whether a watch can resume."""

from datetime import UTC, datetime
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp
from playbooks.runs.v1.run_pb2 import Run

from runs_service.store import Filters, RunStore
from servicekit.errors import Reason, ServiceError
from servicekit.rpc import page_tokens
from servicekit.telemetry.trace_context import TraceContext

DEFAULT_LIMIT = 20
MAX_LIMIT = 100


class RunQueries:
    """Reads the runs of all projects."""

    def __init__(self, store: RunStore) -> None:
        self._store = store

    async def get(self, project_id: str, run_id: str) -> Run:
        """Return a run. Raises ServiceError (RUN_NOT_FOUND)."""
        run = await self._store.runs.get(project_id, run_id)
        if run is None:
            raise run_not_found(project_id, run_id)
        return run

    async def trace(self, run_id: str) -> TraceContext | None:
        """Return the place in a trace of the call that created a run, or None."""
        return TraceContext.parse((await self._store.outbox.traceparents([run_id])).get(run_id, ""))

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
        if filters.retry_of:
            query.append(filters.retry_of)
        before = None
        if page_token:
            try:
                before = listed_at(*page_tokens.decode(page_token, query=query, parts=2))
            except ValueError as error:
                raise page_tokens.refused() from error
        runs = await self._store.runs.page(filters, limit=limit + 1, offset=offset, before=before)
        if len(runs) <= limit:
            return runs, ""
        last = runs[limit - 1]
        position = [last.created_at.ToJsonString(), last.id]
        return runs[:limit], page_tokens.encode(position, query=query)

    async def check_resumable(self, run: Run, after_sequence: int) -> None:
        """Check that every change of `run` after a sequence is kept.

        Raises ServiceError: SEQUENCE_EXPIRED when one is not kept any more, VALIDATION_FAILED when the run has not
        reached that sequence.
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


def run_not_found(project_id: str, run_id: str) -> ServiceError:
    """Return the error for a run that a project does not have."""
    return ServiceError(
        Reason.RUN_NOT_FOUND,
        f"project {project_id!r} has no run {run_id}; ListRuns shows those it has",
        metadata={"run_id": run_id},
    )


def listed_at(created_at: str, run_id: str) -> tuple[datetime, UUID]:
    """Return the place of a run in a list, as tokens name it. Raises ValueError unless we wrote it like that.

    Other spellings of a time may have no time zone, or one that leads out of the years that there are.
    """
    time, written = Timestamp(), Timestamp()
    try:
        time.FromJsonString(created_at)
        place = time.ToDatetime(UTC), UUID(run_id)
    except OverflowError as error:
        raise ValueError(str(error)) from error
    written.FromDatetime(place[0])
    if (written.ToJsonString(), str(place[1])) != (created_at, run_id):
        raise ValueError("another spelling")
    return place
