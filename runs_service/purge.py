"""Deleting all of a project, in both services."""

import asyncio
from datetime import timedelta

from playbooks.runs.v1.runs_service_pb2 import PurgeProjectResponse

from runs_service.delivery.cancellation import Canceller
from runs_service.executor_client import ExecutorClient
from runs_service.store import RunStore
from servicekit.errors import Reason, ServiceError

BUDGET = 3.0  # seconds of one call, in each service
PAUSE = 0.1  # seconds between looks at runs that are being cancelled
STOPS = 1_000  # in one statement


class Purge:
    """Deletes projects, a batch at a time: first the runs here, then what the executor has.

    So a job that is still on its way finds no project, and what it reports belongs to no run. A call that breaks off
    leaves the rest to the next one.
    """

    def __init__(
        self, store: RunStore, executor: ExecutorClient, canceller: Canceller, *, budget: float = BUDGET
    ) -> None:
        self._store = store
        self._executor = executor
        self._canceller = canceller
        self._budget = budget

    async def project(self, project_id: str, *, keep_plan: bool) -> PurgeProjectResponse:
        """Delete a project until nothing is left, or the time of one call is over; return what went.

        `keep_plan`: its plan, limit and AI usage of today stay. Raises ServiceError: EXECUTOR_UNAVAILABLE when runs
        have to be cancelled and no executor answers, or when it cannot be asked to delete its part.
        """
        purged = PurgeProjectResponse()
        if not await self._delete_runs(project_id, purged):
            return purged
        purged.usage_days = await self._store.deletions.usage(project_id)
        await self._store.deletions.expire_positions(project_id)
        there = await self._executor.delete_project(project_id, keep_plan=keep_plan)
        purged.complete = there.complete
        for kind in ("executions", "drafts", "suggestions", "products", "projects"):
            setattr(purged, kind, getattr(there, kind))
        return purged

    async def _delete_runs(self, project_id: str, purged: PurgeProjectResponse) -> bool:
        """Delete runs, and count them; return whether none is left."""
        clock = asyncio.get_running_loop().time
        until = clock() + self._budget
        while True:
            if await self._store.stops.request_all(project_id, limit=STOPS):
                self._canceller.wake()
            deleted = await self._store.deletions.of_project(project_id)
            purged.runs += deleted.runs
            purged.changes += deleted.changes
            left = 0 if deleted.runs else await self._store.deletions.left(project_id)
            if not deleted.runs and not left:
                return True
            if clock() > until:
                if not purged.runs:
                    raise _waiting(project_id, left)
                return False
            if left:
                await asyncio.sleep(PAUSE)


def _waiting(project_id: str, left: int) -> ServiceError:
    return ServiceError(
        Reason.EXECUTOR_UNAVAILABLE,
        f"{left} runs of project {project_id!r} wait for an executor to cancel them; what was deleted stays deleted, "
        "and the same call goes on",
        retry_after=timedelta(seconds=1),
    )
