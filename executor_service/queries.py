"""Reads of what runs made: their drafts, and what applying did."""

from uuid import UUID

from executor_service.domain.draft import DraftPage, RunItem
from executor_service.domain.paging import MAX_LIMIT, Page, PageRequest
from executor_service.store import drafts, executions
from executor_service.store.drafts import DraftAndItems
from servicekit.errors import Reason, ServiceError
from servicekit.postgres.database import Database


class Queries:
    """Every method may raise ServiceError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def draft(self, project_id: str, draft_id: UUID, *, limit: int = 0, page_token: str = "") -> DraftPage:
        """Return a draft with a page of its items. Raises DRAFT_NOT_FOUND, PAGE_TOKEN_INVALID."""
        request = _items_of_draft(["GetDraft", project_id, str(draft_id)], limit, page_token)
        after = request.after
        async with self._database.autocommit() as connection:
            found = await drafts.find(connection, project_id, draft_id, after=after, limit=request.size)
        if found is None:
            raise ServiceError(
                Reason.DRAFT_NOT_FOUND,
                f"project {project_id!r} has no draft {draft_id}",
                metadata={"project_id": project_id, "draft_id": str(draft_id)},
            )
        return _page(request, found)

    async def latest_draft(
        self, project_id: str, playbook_id: str, *, limit: int = 0, page_token: str = ""
    ) -> DraftPage:
        """Return the playbook's draft that was written last, with a page of its items.

        Raises DRAFT_NOT_FOUND, and PAGE_TOKEN_INVALID also when another draft is the latest one by now.
        """
        request = _items_of_draft(["GetLatestDraft", project_id, playbook_id], limit, page_token)
        after = request.after
        async with self._database.autocommit() as connection:
            found = await drafts.latest(connection, project_id, playbook_id, after=after, limit=request.size)
        if found is None:
            raise ServiceError(
                Reason.DRAFT_NOT_FOUND,
                f"project {project_id!r} has no draft of {playbook_id} yet; make a preview",
                metadata={"project_id": project_id, "playbook_id": playbook_id},
            )
        return _page(request, found)

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
            found = await drafts.run_items(connection, run_id, after=after, limit=request.size)
        return request.page(found, lambda item: item.product_id)


def _items_of_draft(query: list[str], limit: int, page_token: str) -> PageRequest:
    return PageRequest(query, limit, page_token, default=MAX_LIMIT, state_parts=2)


def _page(request: PageRequest, found: DraftAndItems) -> DraftPage:
    draft, items = found
    state = [str(draft.id), str(draft.run_id)]
    page = request.page(items, lambda item: item.product_id, state=state)
    return DraftPage(draft, page.rows, page.next_token)
