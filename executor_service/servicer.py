"""ExecutorService and CatalogService: unpack, one call, pack."""

from typing import Any
from uuid import UUID

import grpc
from playbooks.executor.v1 import catalog_service_pb2 as catalog_pb
from playbooks.executor.v1 import executor_service_pb2 as executor_pb
from playbooks.executor.v1.catalog_service_pb2_grpc import CatalogServiceServicer
from playbooks.executor.v1.executor_service_pb2_grpc import ExecutorServiceServicer
from playbooks.executor.v1.job_pb2 import RunJob

from executor_service import messages
from executor_service.catalog import Catalog
from executor_service.domain.execution import Job, State
from executor_service.execution.cancellation import Cancellation
from executor_service.execution.follower import Follower
from executor_service.execution.inbox import FOREIGN, Inbox
from executor_service.messages import UnreadableJob
from executor_service.playbooks.playbook import playbook
from executor_service.playbooks.quota import Plan
from executor_service.playbooks.rules import Rules
from executor_service.purge import Purge
from executor_service.queries import Queries
from executor_service.work.estimate import Estimator
from servicekit.auth.principals import current_principal
from servicekit.clock import Clock
from servicekit.errors import Reason, ServiceError

Context = grpc.aio.ServicerContext[Any, Any]


class ExecutorServicer(ExecutorServiceServicer):
    """Runs, their drafts and items, and estimates."""

    def __init__(
        self,
        inbox: Inbox,
        follower: Follower,
        cancellation: Cancellation,
        *,
        queries: Queries,
        estimator: Estimator,
        clock: Clock,
        purge: Purge,
    ) -> None:
        self._purge = purge
        self._inbox = inbox
        self._cancellation = cancellation
        self._follower = follower
        self._queries = queries
        self._estimator = estimator
        self._clock = clock

    async def ExecuteRun(self, request: executor_pb.ExecuteRunRequest, context: Context) -> None:  # type: ignore[override]
        """Accept the run and stream its events."""
        job = _job(request.job, "job")

        async def send(state: State) -> None:
            await context.write(executor_pb.ExecuteRunResponse(event=messages.event(state)))

        if await self._inbox.accept([job]):
            raise ServiceError(Reason.VALIDATION_FAILED, FOREIGN, field="job.run_id")
        await self._follower.follow(job.run_id, send)

    async def ReconcileRuns(
        self, request: executor_pb.ReconcileRunsRequest, context: Context
    ) -> executor_pb.ReconcileRunsResponse:
        """Return the state of runs."""
        states = await self._follower.states([UUID(run_id) for run_id in request.run_ids])
        known = {state.run_id for state in states}
        return executor_pb.ReconcileRunsResponse(
            events=[messages.event(state) for state in states],
            unknown_run_ids=[run_id for run_id in request.run_ids if UUID(run_id) not in known],
        )

    async def CancelRuns(
        self, request: executor_pb.CancelRunsRequest, context: Context
    ) -> executor_pb.CancelRunsResponse:
        """Cancel runs."""
        states = await self._cancellation.cancel(
            [_job(job, f"jobs[{index}]") for index, job in enumerate(request.jobs)]
        )
        return executor_pb.CancelRunsResponse(events=[messages.event(state) for state in states])

    async def DeleteProject(
        self, request: executor_pb.DeleteProjectRequest, context: Context
    ) -> executor_pb.DeleteProjectResponse:
        """Delete all that is here of a project."""
        purged = await self._purge.project(request.project_id, keep_plan=request.keep_plan)
        return executor_pb.DeleteProjectResponse(complete=purged.complete, **purged.counts)

    async def EstimatePlaybook(
        self, request: executor_pb.EstimatePlaybookRequest, context: Context
    ) -> executor_pb.EstimatePlaybookResponse:
        """Return what a run would do."""
        rules = Rules.from_message(request.rules)
        estimate = await self._estimator.estimate(request.project_id, playbook(request.playbook_id), rules)
        return executor_pb.EstimatePlaybookResponse(
            scope_id=estimate.scope.id,
            rules_hash=estimate.rules_hash,
            total_affected=estimate.scope.products,
            eligible=not estimate.reasons,
            reasons=estimate.reasons,
            ai_daily_limit=messages.ai_daily_limit(estimate.allowance),
            expected_requests=estimate.expectation.requests,
            expected_input_tokens=estimate.expectation.input_tokens,
            expected_output_tokens=estimate.expectation.output_tokens,
        )

    async def GetDraft(self, request: executor_pb.GetDraftRequest, context: Context) -> executor_pb.GetDraftResponse:
        """Return a draft, a page of its items at a time."""
        page = await self._queries.draft(
            request.project_id, UUID(request.draft_id), limit=request.limit, page_token=request.page_token
        )
        return executor_pb.GetDraftResponse(
            draft=messages.draft(page, self._clock.now()), next_page_token=page.next_token
        )

    async def GetLatestDraft(
        self, request: executor_pb.GetLatestDraftRequest, context: Context
    ) -> executor_pb.GetLatestDraftResponse:
        """Return a playbook's latest draft, a page of its items at a time."""
        page = await self._queries.latest_draft(
            request.project_id, request.playbook_id, limit=request.limit, page_token=request.page_token
        )
        return executor_pb.GetLatestDraftResponse(
            draft=messages.draft(page, self._clock.now()), next_page_token=page.next_token
        )

    async def ListRunItems(
        self, request: executor_pb.ListRunItemsRequest, context: Context
    ) -> executor_pb.ListRunItemsResponse:
        """Return what an APPLY did, a page at a time."""
        page = await self._queries.run_items(
            request.project_id, UUID(request.run_id), limit=request.limit, page_token=request.page_token
        )
        return executor_pb.ListRunItemsResponse(
            items=[messages.run_item(item) for item in page.rows], next_page_token=page.next_token
        )


def _job(message: RunJob, field: str) -> Job:
    try:
        return messages.job(message)
    except UnreadableJob as error:
        raise ServiceError(Reason.VALIDATION_FAILED, str(error), field=field) from error


class CatalogServicer(CatalogServiceServicer):
    """Projects and their products."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def PutProject(
        self, request: catalog_pb.PutProjectRequest, context: Context
    ) -> catalog_pb.PutProjectResponse:
        """Create a project or change its plan and limit."""
        project = await self._catalog.put_project(
            request.project_id,
            plan=Plan(catalog_pb.Project.Plan.Name(request.plan)) if request.plan else None,
            ai_daily_limit=request.ai_daily_limit if request.HasField("ai_daily_limit") else None,
            by_platform=current_principal().is_platform,
        )
        allowance = await self._catalog.allowance(project)
        return catalog_pb.PutProjectResponse(project=messages.project(project, allowance))

    async def GetProject(
        self, request: catalog_pb.GetProjectRequest, context: Context
    ) -> catalog_pb.GetProjectResponse:
        """Return a project with today's AI usage."""
        project = await self._catalog.project(request.project_id)
        allowance = await self._catalog.allowance(project)
        return catalog_pb.GetProjectResponse(project=messages.project(project, allowance))

    async def PutProducts(
        self, request: catalog_pb.PutProductsRequest, context: Context
    ) -> catalog_pb.PutProductsResponse:
        """Create or replace products."""
        if len({product.id for product in request.products}) < len(request.products):
            raise ServiceError(Reason.VALIDATION_FAILED, "each product id may stand only once", field="products")
        products = [messages.product_record(product) for product in request.products]
        counts = await self._catalog.put_products(request.project_id, products)
        return catalog_pb.PutProductsResponse(created=counts.created, updated=counts.updated)

    async def ListProducts(
        self, request: catalog_pb.ListProductsRequest, context: Context
    ) -> catalog_pb.ListProductsResponse:
        """Return products, a page at a time."""
        page = await self._catalog.products(
            request.project_id,
            request.playbook_id,
            ids=request.product_ids,
            limit=request.limit,
            page_token=request.page_token,
        )
        return catalog_pb.ListProductsResponse(
            products=[messages.product(product) for product in page.rows], next_page_token=page.next_token
        )

    async def DeleteProducts(
        self, request: catalog_pb.DeleteProductsRequest, context: Context
    ) -> catalog_pb.DeleteProductsResponse:
        """Delete products."""
        deleted = await self._catalog.delete_products(request.project_id, request.product_ids)
        return catalog_pb.DeleteProductsResponse(deleted=deleted)
