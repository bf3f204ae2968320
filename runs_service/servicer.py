"""RunsService: unpack, one call, pack."""

from collections.abc import Awaitable, Sequence
from typing import Final, Protocol
from uuid import UUID

from playbooks.runs.v1 import runs_service_pb2 as pb
from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2_grpc import RunsServiceServicer

from runs_service.executor_client import ExecutorClient
from runs_service.permissions import role_for
from runs_service.purge import Purge
from runs_service.queries import RunQueries
from runs_service.runs import Runs
from runs_service.store import Filters
from runs_service.usage import UsageReports
from runs_service.watching.project_stream import ProjectStream
from runs_service.watching.stream import RunStream
from servicekit.auth.principals import current_principal
from servicekit.rpc.interceptors.base import Context
from servicekit.rpc.interceptors.request_ids import current_request_id, send_trailing
from servicekit.telemetry.outages import Outage

QUEUE_PROBLEM: Final = "playbook-runs-queue-problem"  # metadata: why no run leaves the queue


class _NamesRun(Protocol):
    run_id: str


class RunsServicer(RunsServiceServicer):
    """Serves playbooks.runs.v1.RunsService. `broker` has the outages of our links to the broker."""

    def __init__(
        self,
        runs: Runs,
        queries: RunQueries,
        streams: RunStream,
        project_streams: ProjectStream,
        executor: ExecutorClient,
        *,
        usage: UsageReports,
        purge: Purge,
        broker: Sequence[Outage] = (),
    ) -> None:
        self._purge = purge
        self._runs = runs
        self._queries = queries
        self._streams = streams
        self._project_streams = project_streams
        self._usage = usage
        self._executor = executor
        self._broker = broker

    async def CreateRun(self, request: pb.CreateRunRequest, context: Context) -> pb.CreateRunResponse:
        """Create a run, or return the one that the same request has created."""
        run, created = await self._create(request)
        return pb.CreateRunResponse(run=run, created=created)

    async def GetRun(self, request: pb.GetRunRequest, context: Context) -> pb.GetRunResponse:
        """Return a run. While it is QUEUED and the broker is unusable, the trailing metadata says why."""
        run = await self._queries.get(request.project_id, _run_id(request))
        problems = [outage.public_reason for outage in self._broker if outage.public_reason]
        if problems and run.status == Run.QUEUED:
            send_trailing(context, QUEUE_PROBLEM, problems[0])
        return pb.GetRunResponse(run=run)

    async def ListRuns(self, request: pb.ListRunsRequest, context: Context) -> pb.ListRunsResponse:
        """Return a page of runs."""
        filters = Filters(
            project_id=request.project_id,
            playbook_id=request.playbook_id,
            run_type=Run.Type.Name(request.run_type) if request.run_type else "",
            scope_id=request.scope_id,
            status=Run.Status.Name(request.status) if request.status else "",
            retry_of=request.retry_of.lower(),
        )
        runs, next_page_token = await self._queries.page(
            filters, limit=request.limit, offset=request.offset, page_token=request.page_token
        )
        return pb.ListRunsResponse(runs=runs, next_page_token=next_page_token)

    async def GetUsage(self, request: pb.GetUsageRequest, context: Context) -> pb.GetUsageResponse:
        """Return what the project's runs were and cost."""
        # `from` is a word of Python's own.
        return await self._usage.report(request.project_id, getattr(request, "from"), request.to)

    async def WatchRun(self, request: pb.WatchRunRequest, context: Context) -> None:  # type: ignore[override]
        """Stream a run's changes. Writes to the context, as servicekit's interceptors want it."""
        after = request.after_sequence if request.HasField("after_sequence") else None
        await self._streams.serve(request.project_id, _run_id(request), after=after, write=context.write)

    async def WatchRuns(self, request: pb.WatchRunsRequest, context: Context) -> None:  # type: ignore[override]
        """Stream the changes of a project's runs. Writes to the context, as servicekit's interceptors want it."""
        filters = Filters(
            project_id=request.project_id,
            playbook_id=request.playbook_id,
            run_type=Run.Type.Name(request.run_type) if request.run_type else "",
        )
        await self._project_streams.serve(filters, after=request.after, write=context.write)

    async def CancelRun(self, request: pb.CancelRunRequest, context: Context) -> pb.CancelRunResponse:
        """Cancel a run."""
        run_id = _run_id(request)
        await self._require_role_for(request.project_id, run_id)
        run = await self._runs.cancel(request.project_id, run_id, request_id=current_request_id())
        return pb.CancelRunResponse(run=run)

    async def RetryRun(self, request: pb.RetryRunRequest, context: Context) -> pb.RetryRunResponse:
        """Create a run that asks for the same as an ended one."""
        run_id = _run_id(request)
        await self._require_role_for(request.project_id, run_id)
        run, created = await self._runs.retry(
            request.project_id,
            run_id,
            key=request.idempotency_key or None,
            user_id=current_principal().user_id,
            request_id=current_request_id(),
        )
        return pb.RetryRunResponse(run=run, created=created)

    async def PreviewPlaybook(self, request: pb.PreviewPlaybookRequest, context: Context) -> pb.PreviewPlaybookResponse:
        """Create a preview, wait for it, return its draft."""
        run, _ = await self._create(
            pb.CreateRunRequest(
                project_id=request.project_id,
                playbook_id=request.playbook_id,
                run_type=Run.PREVIEW_GENERATE,
                meta=request.meta,
                request_id=request.request_id if request.HasField("request_id") else None,
            )
        )
        run = await self._streams.wait_for_end(run)
        return pb.PreviewPlaybookResponse(run=run, draft=await self._executor.draft(run))

    async def ApplyPlaybook(self, request: pb.ApplyPlaybookRequest, context: Context) -> pb.ApplyPlaybookResponse:
        """Create an apply, wait for it, return its items."""
        run, _ = await self._create(
            pb.CreateRunRequest(
                project_id=request.project_id,
                playbook_id=request.playbook_id,
                run_type=Run.APPLY,
                scope_id=request.scope_id,
                rules_hash=request.rules_hash,
                request_id=request.request_id if request.HasField("request_id") else None,
            )
        )
        run = await self._streams.wait_for_end(run)
        return pb.ApplyPlaybookResponse(run=run, items=await self._executor.items(run))

    async def PurgeProject(self, request: pb.PurgeProjectRequest, context: Context) -> pb.PurgeProjectResponse:
        """Delete a project, or as much of it as a call can."""
        return await self._purge.project(request.project_id, keep_plan=not current_principal().is_platform)

    def _create(self, request: pb.CreateRunRequest) -> Awaitable[tuple[Run, bool]]:
        return self._runs.create(request, user_id=current_principal().user_id, request_id=current_request_id())

    async def _require_role_for(self, project_id: str, run_id: str) -> None:
        run = await self._queries.get(project_id, run_id)
        current_principal().require(role_for(run.run_type), project_id)


def _run_id(request: _NamesRun) -> str:
    """Return the run's id in its canonical form: watchers are found by it."""
    return str(UUID(request.run_id))
