"""RunsService, as a program uses it: create runs, look at them, watch them."""

from collections.abc import AsyncGenerator, AsyncIterator

import grpc
from playbooks.runs.v1.run_pb2 import PlaybookRules, Run, RunMeta
from playbooks.runs.v1.runs_service_pb2 import (
    ApplyPlaybookRequest,
    ApplyPlaybookResponse,
    CancelRunRequest,
    CreateRunRequest,
    CreateRunResponse,
    GetRunRequest,
    ListRunsRequest,
    PreviewPlaybookRequest,
    PreviewPlaybookResponse,
    RetryRunRequest,
    RetryRunResponse,
    WatchRunResponse,
)
from playbooks.runs.v1.runs_service_pb2_grpc import RunsServiceStub

from runs_client.service_client import ServiceClient
from runs_client.watch import RunWatch

RUN_TIMEOUT = 600.0  # seconds, of a call that may wait for a run: without a broker, CreateRun does too
PAGE = 100  # runs


class RunsClient(ServiceClient):
    """A client of runs_service at `target` (HOST:PORT); use it with `async with`, in a running event loop.

    What else it takes is in ServiceClient. Every method raises ServiceCallError when its call fails.
    """

    def _make_stubs(self, channel: grpc.aio.Channel) -> None:
        self._stub = RunsServiceStub(channel)

    async def create(
        self,
        project_id: str,
        playbook_id: str,
        run_type: Run.Type.ValueType,
        *,
        scope_id: str = "",
        rules_hash: str = "",
        idempotency_key: str | None = None,
        sample_size: int | None = None,
        rules: PlaybookRules | None = None,
        deadline_seconds: int | None = None,
        deadline: float = RUN_TIMEOUT,
    ) -> CreateRunResponse:
        """Create a run, or find the one that this request has made; return it with `created`.

        `deadline_seconds` is the run's; `deadline`, in seconds, the call's: a run that was accepted goes on after it.
        """
        request = CreateRunRequest(
            project_id=project_id,
            playbook_id=playbook_id,
            run_type=run_type,
            scope_id=scope_id,
            rules_hash=rules_hash,
            idempotency_key=idempotency_key,
            meta=RunMeta(sample_size=sample_size, rules=rules, deadline_seconds=deadline_seconds),
        )
        return await self._connection.unary(self._stub.CreateRun, request, deadline=deadline)

    async def get(self, project_id: str, run_id: str) -> Run:
        """Return a run as it is now."""
        request = GetRunRequest(project_id=project_id, run_id=run_id)
        return (await self._connection.unary(self._stub.GetRun, request)).run

    async def cancel(self, project_id: str, run_id: str) -> Run:
        """Cancel a run; return it as it is then: CANCELLED, or as it had ended before."""
        request = CancelRunRequest(project_id=project_id, run_id=run_id)
        return (await self._connection.unary(self._stub.CancelRun, request)).run

    async def retry(
        self,
        project_id: str,
        run_id: str,
        *,
        idempotency_key: str | None = None,
        deadline: float = RUN_TIMEOUT,
    ) -> RetryRunResponse:
        """Ask for the same as an ended run did; return the new run, or the one that was asked for so already."""
        request = RetryRunRequest(project_id=project_id, run_id=run_id, idempotency_key=idempotency_key)
        return await self._connection.unary(self._stub.RetryRun, request, deadline=deadline)

    async def list(
        self,
        project_id: str,
        *,
        playbook_id: str = "",
        run_type: Run.Type.ValueType = Run.TYPE_UNSPECIFIED,
        scope_id: str = "",
        status: Run.Status.ValueType = Run.STATUS_UNSPECIFIED,
        page_size: int = PAGE,
    ) -> AsyncIterator[Run]:
        """Yield the project's runs that match the given filters, newest first, asking page by page."""
        request = ListRunsRequest(
            project_id=project_id,
            playbook_id=playbook_id,
            run_type=run_type,
            scope_id=scope_id,
            status=status,
            limit=page_size,
        )
        while True:
            page = await self._connection.unary(self._stub.ListRuns, request)
            for run in page.runs:
                yield run
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def watch(
        self, project_id: str, run_id: str, *, after_sequence: int | None = None
    ) -> AsyncGenerator[WatchRunResponse, None]:
        """Yield a run's changes, each once and in order, until it has ended, over any number of connections.

        With `after_sequence` the changes after that one, without a snapshot first. Who stops before the end does so
        under contextlib.aclosing, which ends the call.
        """
        watch = RunWatch(self._connection, self._stub, project_id, run_id, after_sequence=after_sequence)
        return watch.responses()

    async def preview(
        self,
        project_id: str,
        playbook_id: str,
        *,
        sample_size: int | None = None,
        rules: PlaybookRules | None = None,
        deadline: float = RUN_TIMEOUT,
    ) -> PreviewPlaybookResponse:
        """Make a preview and wait for it, `deadline` seconds at most; the run goes on after it."""
        meta = RunMeta(sample_size=sample_size, rules=rules)
        request = PreviewPlaybookRequest(project_id=project_id, playbook_id=playbook_id, meta=meta)
        return await self._connection.unary(self._stub.PreviewPlaybook, request, deadline=deadline)

    async def apply(
        self, project_id: str, playbook_id: str, *, scope_id: str, rules_hash: str, deadline: float = RUN_TIMEOUT
    ) -> ApplyPlaybookResponse:
        """Apply a draft and wait for it, `deadline` seconds at most; the run goes on after it."""
        request = ApplyPlaybookRequest(
            project_id=project_id, playbook_id=playbook_id, scope_id=scope_id, rules_hash=rules_hash
        )
        return await self._connection.unary(self._stub.ApplyPlaybook, request, deadline=deadline)
