"""ExecutorService and CatalogService, as a program uses them: the catalog, estimates, drafts, applied items."""

import re
from collections.abc import AsyncGenerator, Sequence
from functools import partial
from typing import TypeVar

import grpc
from playbooks.executor.v1.catalog_service_pb2 import (
    DeleteProductsRequest,
    GetProjectRequest,
    ListProductsRequest,
    Product,
    Project,
    PutProductsRequest,
    PutProductsResponse,
    PutProjectRequest,
)
from playbooks.executor.v1.catalog_service_pb2_grpc import CatalogServiceStub
from playbooks.executor.v1.executor_service_pb2 import (
    EstimatePlaybookRequest,
    EstimatePlaybookResponse,
    GetDraftRequest,
    GetDraftResponse,
    GetLatestDraftRequest,
    GetLatestDraftResponse,
    ListRunItemsRequest,
)
from playbooks.executor.v1.executor_service_pb2_grpc import ExecutorServiceStub
from playbooks.runs.v1.run_pb2 import Draft, PlaybookRules, RunItem

from runs_client.errors import ServiceCallError
from runs_client.service_client import ServiceClient

BATCH_PRODUCTS = 500
BATCH_BYTES = 900_000  # executor-service takes requests of 1 MiB
DELETE_BATCH = 1_000  # ids
PAGE = 500  # products or items

DraftRequest = TypeVar("DraftRequest", GetDraftRequest, GetLatestDraftRequest)
DraftResponse = TypeVar("DraftResponse", GetDraftResponse, GetLatestDraftResponse)


class ExecutorClient(ServiceClient):
    """A client of executor_service at `target` (HOST:PORT); use it with `async with`, in a running event loop.

    Its other arguments, and the reasons that any call may fail with, are those of ServiceClient.
    """

    def _make_stubs(self, channel: grpc.aio.Channel) -> None:
        self._catalog = CatalogServiceStub(channel)
        self._executor = ExecutorServiceStub(channel)

    # Catalog

    async def put_project(
        self,
        project_id: str,
        plan: Project.Plan.ValueType = Project.PLAN_UNSPECIFIED,
        *,
        ai_daily_limit: int | None = None,
    ) -> Project:
        """Create a project if there is none; return it.

        Its plan, and its limit of AI suggestions a UTC day, are set where they are given: by the platform's token only
        (OWNER of "*"). A plan without a limit means the plan's own.

        Raises ServiceCallError: ROLE_TOO_LOW for a plan or a limit that the token may not set.
        """
        request = PutProjectRequest(project_id=project_id, plan=plan, ai_daily_limit=ai_daily_limit)
        return (await self._connection.unary(self._catalog.PutProject, request)).project

    async def get_project(self, project_id: str) -> Project:
        """Return a project with today's AI usage. Raises ServiceCallError: PROJECT_NOT_FOUND."""
        request = GetProjectRequest(project_id=project_id)
        return (await self._connection.unary(self._catalog.GetProject, request)).project

    async def put_products(
        self, project_id: str, products: Sequence[Product], *, batch_bytes: int = BATCH_BYTES
    ) -> PutProductsResponse:
        """Create or replace any number of products, as put_batches does; return how many of each.

        Raises ServiceCallError: PROJECT_NOT_FOUND; VALIDATION_FAILED names a bad product by its id;
        PRODUCT_LIMIT_REACHED when the project has as many as it may.
        """
        total = PutProductsResponse()
        async for stored in self.put_batches(project_id, products, batch_bytes=batch_bytes):
            total.created += stored.created
            total.updated += stored.updated
        return total

    async def put_batches(
        self, project_id: str, products: Sequence[Product], *, batch_bytes: int = BATCH_BYTES
    ) -> AsyncGenerator[PutProductsResponse, None]:
        """Create or replace any number of products; yield how many of each, batch by batch.

        They go out in batches of at most BATCH_PRODUCTS and `batch_bytes`, each stored whole or not at all. When a call
        fails, the batches before it are stored.

        Raises ServiceCallError: PROJECT_NOT_FOUND; VALIDATION_FAILED names a bad product by its id.
        """
        for batch in _batches(products, batch_bytes):
            request = PutProductsRequest(project_id=project_id, products=batch)
            try:
                stored = await self._connection.unary(self._catalog.PutProducts, request)
            except ServiceCallError as error:
                raise error.with_fields_renamed(partial(_by_id, batch)) from error
            yield stored

    async def delete_products(self, project_id: str, product_ids: Sequence[str]) -> int:
        """Delete any number of products; return how many of them there were.

        They go out in batches of DELETE_BATCH ids, each deleted whole or not at all. Ids without a product are passed
        over. Raises ServiceCallError: PROJECT_NOT_FOUND.
        """
        deleted = 0
        for start in range(0, len(product_ids), DELETE_BATCH):
            batch = product_ids[start : start + DELETE_BATCH]
            request = DeleteProductsRequest(project_id=project_id, product_ids=batch)
            deleted += (await self._connection.unary(self._catalog.DeleteProducts, request)).deleted
        return deleted

    async def list_products(self, project_id: str, *, playbook_id: str = "") -> AsyncGenerator[Product, None]:
        """Yield the project's products by id; with `playbook_id` only those the playbook would work on.

        Raises ServiceCallError: PROJECT_NOT_FOUND; PAGE_TOKEN_INVALID when the service does not know the token of its
        last page: its secret has changed.
        """
        request = ListProductsRequest(project_id=project_id, playbook_id=playbook_id, limit=PAGE)
        while True:
            page = await self._connection.unary(self._catalog.ListProducts, request)
            for product in page.products:
                yield product
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    # Playbooks

    async def estimate(
        self, project_id: str, playbook_id: str, rules: PlaybookRules | None = None
    ) -> EstimatePlaybookResponse:
        """Return what a run would do, and whether it may, without any AI call.

        Raises ServiceCallError: PROJECT_NOT_FOUND; TOO_MANY_CALLS, with `retry_after`, while many calls of the project
        are waiting.
        """
        request = EstimatePlaybookRequest(project_id=project_id, playbook_id=playbook_id, rules=rules)
        return await self._connection.unary(self._executor.EstimatePlaybook, request)

    async def get_draft(self, project_id: str, draft_id: str) -> Draft:
        """Return a draft by its id with all its items, however many calls it takes.

        Raises ServiceCallError: DRAFT_NOT_FOUND; PAGE_TOKEN_INVALID when a run wrote it between two pages: read it
        again.
        """
        return await self._whole_draft(
            self._executor.GetDraft, GetDraftRequest(project_id=project_id, draft_id=draft_id)
        )

    async def get_latest_draft(self, project_id: str, playbook_id: str) -> Draft:
        """Return the draft of a playbook that was written last, with all its items.

        Raises ServiceCallError: DRAFT_NOT_FOUND; PAGE_TOKEN_INVALID when a run wrote a draft of the playbook between
        two pages: read it again.
        """
        return await self._whole_draft(
            self._executor.GetLatestDraft, GetLatestDraftRequest(project_id=project_id, playbook_id=playbook_id)
        )

    async def _whole_draft(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[DraftRequest, DraftResponse],
        request: DraftRequest,
    ) -> Draft:
        page = await self._connection.unary(method, request)
        draft = page.draft
        while page.next_page_token:
            request.page_token = page.next_page_token
            page = await self._connection.unary(method, request)
            draft.items.extend(page.draft.items)
        return draft

    async def list_run_items(self, project_id: str, run_id: str) -> AsyncGenerator[RunItem, None]:
        """Yield what an APPLY did, product by product, by product id.

        Raises ServiceCallError: RUN_NOT_FOUND; PAGE_TOKEN_INVALID when the service does not know the token of its last
        page: its secret has changed.
        """
        request = ListRunItemsRequest(project_id=project_id, run_id=run_id, limit=PAGE)
        while True:
            page = await self._connection.unary(self._executor.ListRunItems, request)
            for item in page.items:
                yield item
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token


def _by_id(batch: Sequence[Product], text: str) -> str:
    """Return an error's text with ids for positions: these count within a batch that the caller did not make."""
    return re.sub(r"\bproducts\[(\d+)\]", lambda found: f"products[{batch[int(found[1])].id!r}]", text)


def _batches(products: Sequence[Product], batch_bytes: int) -> list[list[Product]]:
    """Split products into batches of at most BATCH_PRODUCTS and `batch_bytes`; a larger product has its own."""
    batches: list[list[Product]] = []
    room = 0
    for product in products:
        size = product.ByteSize()
        if not batches or room < size or len(batches[-1]) == BATCH_PRODUCTS:
            batches.append([])
            room = batch_bytes
        batches[-1].append(product)
        room -= size
    return batches
