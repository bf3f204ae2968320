"""What runs made: how they stand, their drafts, and what applying did."""

from collections.abc import Sequence
from uuid import UUID

from executor_service.paging import Page, PageRequest
from executor_service.records import RunItem, State, WholeDraft
from executor_service.store import drafts, executions
from servicekit.database import Database
from servicekit.errors import Reason, ServiceError


class Library:
    """Reads only. Every method may raise ServiceError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def states(self, run_ids: Sequence[UUID]) -> list[State]:
        """Return how the runs that are here stand."""
        async with self._database.autocommit() as connection:
            return await executions.states(connection, run_ids)

    async def draft(self, project_id: str, draft_id: UUID) -> WholeDraft:
        """Return a draft. Raises DRAFT_NOT_FOUND."""
        async with self._database.autocommit() as connection:
            draft = await drafts.find(connection, project_id, draft_id)
        if draft is None:
            raise ServiceError(
                Reason.DRAFT_NOT_FOUND,
                f"project {project_id!r} has no draft {draft_id}",
                metadata={"project_id": project_id, "draft_id": str(draft_id)},
            )
        return draft

    async def latest_draft(self, project_id: str, playbook_id: str) -> WholeDraft:
        """Return the playbook's draft that was written last. Raises DRAFT_NOT_FOUND."""
        async with self._database.autocommit() as connection:
            draft = await drafts.latest(connection, project_id, playbook_id)
        if draft is None:
            raise ServiceError(
                Reason.DRAFT_NOT_FOUND,
                f"project {project_id!r} has no draft of {playbook_id} yet; make a preview",
                metadata={"project_id": project_id, "playbook_id": playbook_id},
            )
        return draft

    async def run_items(self, project_id: str, run_id: UUID, *, limit: int, page_token: str) -> Page[RunItem]:
        """Return a page of what an APPLY did, by product id. Raises RUN_NOT_FOUND."""
        request = PageRequest(["ListRunItems", project_id, str(run_id)], limit, page_token)
        after = request.after
        async with self._database.autocommit() as connection:
            if not await executions.exists(connection, project_id, run_id):
                raise ServiceError(
                    Reason.RUN_NOT_FOUND,
                    f"project {project_id!r} has no run {run_id} here",
                    metadata={"project_id": project_id, "run_id": str(run_id)},
                )
            rows = await drafts.run_items(connection, run_id, after=after, limit=request.size + 1)
        return request.page(rows, lambda item: item.product_id)
