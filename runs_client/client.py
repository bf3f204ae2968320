"""RunsService, as a program uses it: create runs, look at them, watch them."""

from collections.abc import AsyncGenerator
from datetime import date
from uuid import uuid4

import grpc
from playbooks.runs.v1.run_pb2 import PlaybookRules, Run, RunMeta
from playbooks.runs.v1.runs_service_pb2 import (
    ApplyPlaybookRequest,
    ApplyPlaybookResponse,
    CancelRunRequest,
    CreateRunRequest,
    CreateRunResponse,
    GetRunRequest,
    GetUsageRequest,
    GetUsageResponse,
    ListRunsRequest,
    PreviewPlaybookRequest,
    PreviewPlaybookResponse,
    PurgeProjectRequest,
    PurgeProjectResponse,
    RetryRunRequest,
    RetryRunResponse,
    WatchRunResponse,
    WatchRunsRequest,
    WatchRunsResponse,
)
from playbooks.runs.v1.runs_service_pb2_grpc import RunsServiceStub

from runs_client.project_watch import ProjectWatch
from runs_client.resuming import GIVE_UP_AFTER, IDLE_TIMEOUT
from runs_client.service_client import ServiceClient
from runs_client.watch import RunWatch

RUN_TIMEOUT = 600.0  # seconds, of a call that may wait for a run: without a broker, CreateRun does too
PURGE_TIMEOUT = 60.0  # seconds; a call works for some seconds in each service
PAGE = 100  # runs
QUEUE_PROBLEM = "playbook-runs-queue-problem"  # trailing metadata of GetRun


class RunsClient(ServiceClient):
    """A client of runs_service at `target` (HOST:PORT); use it with `async with`, in a running event loop.

    Its other arguments, and the reasons that any call may fail with, are those of ServiceClient. A call has a
    `timeout` in seconds; a run has `deadline_seconds`, and goes on when the call that made it has timed out.

    The client retries calls that were cut off for a while. Calls that make a run carry a `request_id`, so that retries
    find the run of the first attempt. A caller with retries of its own passes the same `request_id` (a UUID) each time;
    without one, each call gets a new one.
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
        economy: bool = False,
        request_id: str | None = None,
        timeout: float = RUN_TIMEOUT,  # noqa: ASYNC109  # gRPC's, as in every method here
    ) -> CreateRunResponse:
        """Create a run, or find the one that this request has made; return it with `created`.

        With `economy` its suggestions cost about half and may take hours, where the provider's model can do so.

        Raises ServiceCallError: IDEMPOTENCY_KEY_REUSED (metadata `run_id`) when the key or the request_id names another
        request's run; CREATE_RATE_EXCEEDED and QUEUE_FULL, with `retry_after`, when the project creates too fast or too
        many of its runs wait, as with `retry`, `preview` and `apply`.
        """
        request = CreateRunRequest(
            project_id=project_id,
            playbook_id=playbook_id,
            run_type=run_type,
            scope_id=scope_id,
            rules_hash=rules_hash,
            idempotency_key=idempotency_key,
            meta=RunMeta(sample_size=sample_size, rules=rules, deadline_seconds=deadline_seconds, economy=economy),
            request_id=request_id or str(uuid4()),
        )
        return await self._connection.unary(self._stub.CreateRun, request, timeout=timeout)

    async def get(self, project_id: str, run_id: str) -> Run:
        """Return a run as it is now. Raises ServiceCallError: RUN_NOT_FOUND."""
        request = GetRunRequest(project_id=project_id, run_id=run_id)
        return (await self._connection.unary(self._stub.GetRun, request)).run

    async def queue_problem(self, project_id: str, run_id: str) -> str:
        """Return why a QUEUED run cannot reach the executor, "the broker refuses: …", as far as runs_service knows.

        "" when it knows of nothing, or the run is not QUEUED. Raises ServiceCallError: RUN_NOT_FOUND.
        """
        request = GetRunRequest(project_id=project_id, run_id=run_id)
        _, trailing = await self._connection.unary_with_trailing(self._stub.GetRun, request)
        return trailing.get(QUEUE_PROBLEM, "")

    async def cancel(self, project_id: str, run_id: str) -> Run:
        """Cancel a run; return it as it is then: CANCELLED, or as it had ended before.

        Raises ServiceCallError: RUN_NOT_FOUND; INTERNAL_ERROR when the executor refused: the cancel is kept, and sent
        again.
        """
        request = CancelRunRequest(project_id=project_id, run_id=run_id)
        return (await self._connection.unary(self._stub.CancelRun, request)).run

    async def retry(
        self,
        project_id: str,
        run_id: str,
        *,
        idempotency_key: str | None = None,
        timeout: float = RUN_TIMEOUT,  # noqa: ASYNC109
    ) -> RetryRunResponse:
        """Create a run with the request of one that FAILED, is STALE or was CANCELLED, or find the one made before.

        A run has one retry at most, under any key; that one may be retried in turn.

        Raises ServiceCallError: RUN_NOT_FOUND; RUN_NOT_RETRYABLE for a run in another state; IDEMPOTENCY_KEY_REUSED
        (metadata `run_id`) when the key names another request's run.
        """
        request = RetryRunRequest(project_id=project_id, run_id=run_id, idempotency_key=idempotency_key)
        return await self._connection.unary(self._stub.RetryRun, request, timeout=timeout)

    async def purge(self, project_id: str) -> AsyncGenerator[PurgeProjectResponse, None]:
        """Delete all of a project in both services, for good: call until nothing is left, and yield what each call
        deleted. A caller that stops before the last one, which is `complete`, goes on with a new `purge`.

        Raises ServiceCallError: EXECUTOR_UNAVAILABLE while runs wait for an executor to cancel them.
        """
        request = PurgeProjectRequest(project_id=project_id)
        while True:
            purged = await self._connection.unary(self._stub.PurgeProject, request, timeout=PURGE_TIMEOUT)
            yield purged
            if purged.complete:
                return

    async def list(
        self,
        project_id: str,
        *,
        playbook_id: str = "",
        run_type: Run.Type.ValueType = Run.TYPE_UNSPECIFIED,
        scope_id: str = "",
        status: Run.Status.ValueType = Run.STATUS_UNSPECIFIED,
        page_size: int = PAGE,
    ) -> AsyncGenerator[Run, None]:
        """Yield the project's runs that match the given filters, newest first, page by page.

        Raises ServiceCallError: PAGE_TOKEN_INVALID when the service does not know the token of its last page: its
        secret has changed.
        """
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

    async def get_usage(
        self, project_id: str, *, first_day: date | None = None, last_day: date | None = None
    ) -> GetUsageResponse:
        """Return what the project's runs were and cost: those that ended from `first_day` to `last_day`, which are UTC
        days, by day and run type, and summed up.

        Left out, `last_day` is today and `first_day` 29 days before it. Raises ServiceCallError: VALIDATION_FAILED also
        for more than 366 days.
        """
        request = GetUsageRequest(project_id=project_id, to=last_day.isoformat() if last_day else "")
        setattr(request, "from", first_day.isoformat() if first_day else "")  # a word of Python's own
        return await self._connection.unary(self._stub.GetUsage, request)

    def watch(
        self,
        project_id: str,
        run_id: str,
        *,
        after_sequence: int | None = None,
        idle_timeout: float = IDLE_TIMEOUT,
        give_up_after: float = GIVE_UP_AFTER,
    ) -> AsyncGenerator[WatchRunResponse, None]:
        """Yield a run's changes, each once and in order, until it has ended, over any number of connections.

        With `after_sequence` the changes after that one, without a snapshot first; when these are no longer kept
        (SEQUENCE_EXPIRED) it goes on from a snapshot. A connection without a message for `idle_timeout` seconds is
        replaced, and so is one whose token has expired, when the client's function has another one. A caller that stops
        before the end does so under contextlib.aclosing, which ends the call.

        Raises ServiceCallError: RUN_NOT_FOUND; WATCHER_TOO_SLOW, SHUTTING_DOWN and lost connections only when the
        service did not answer for `give_up_after` seconds, TOO_MANY_CALLS when it took no watch for as long.
        """
        return RunWatch(
            self._connection,
            self._stub,
            project_id,
            run_id,
            after_sequence=after_sequence,
            idle_timeout=idle_timeout,
            give_up_after=give_up_after,
        ).responses()

    def watch_all(
        self,
        project_id: str,
        *,
        playbook_id: str = "",
        run_type: Run.Type.ValueType = Run.TYPE_UNSPECIFIED,
        after: str = "",
        idle_timeout: float = IDLE_TIMEOUT,
        give_up_after: float = GIVE_UP_AFTER,
    ) -> AsyncGenerator[WatchRunsResponse, None]:
        """Yield the changes of all the project's runs that match the filters, without an end, over any number of
        connections: each once, those of one run in order.

        It begins with the newest 100 runs (SNAPSHOT) and a BOOKMARK; with `after`, the `position` of a message that was
        yielded before, with what came after that message. When that is no longer kept (POSITION_EXPIRED), it goes on
        from a new list of SNAPSHOTs: runs that are not in it may have changed meanwhile. A BOOKMARK has a position and
        no run. A connection without a message for `idle_timeout` seconds is replaced. A caller that stops does so under
        contextlib.aclosing, which ends the call.

        Raises ServiceCallError: WATCHER_TOO_SLOW, SHUTTING_DOWN and lost connections only when the service did not
        answer for `give_up_after` seconds, TOO_MANY_CALLS when it took no watch for as long.
        """
        request = WatchRunsRequest(project_id=project_id, playbook_id=playbook_id, run_type=run_type, after=after)
        return ProjectWatch(
            self._connection, self._stub, request, idle_timeout=idle_timeout, give_up_after=give_up_after
        ).responses()

    async def preview(
        self,
        project_id: str,
        playbook_id: str,
        *,
        sample_size: int | None = None,
        rules: PlaybookRules | None = None,
        request_id: str | None = None,
        timeout: float = RUN_TIMEOUT,  # noqa: ASYNC109
    ) -> PreviewPlaybookResponse:
        """Make a preview and wait for its end, `timeout` seconds at most.

        Raises ServiceCallError: EXECUTOR_UNAVAILABLE and DRAFT_NOT_FOUND when the preview has ended and its draft
        cannot be read; IDEMPOTENCY_KEY_REUSED (metadata `run_id`) when the request_id names another request's run.
        """
        request = PreviewPlaybookRequest(
            project_id=project_id,
            playbook_id=playbook_id,
            meta=RunMeta(sample_size=sample_size, rules=rules),
            request_id=request_id or str(uuid4()),
        )
        return await self._connection.unary(self._stub.PreviewPlaybook, request, timeout=timeout)

    async def apply(
        self,
        project_id: str,
        playbook_id: str,
        *,
        scope_id: str,
        rules_hash: str,
        request_id: str | None = None,
        timeout: float = RUN_TIMEOUT,  # noqa: ASYNC109
    ) -> ApplyPlaybookResponse:
        """Apply a draft and wait for the end, `timeout` seconds at most.

        Raises ServiceCallError: EXECUTOR_UNAVAILABLE and RUN_NOT_FOUND when the apply has ended and its items cannot
        be read; IDEMPOTENCY_KEY_REUSED (metadata `run_id`) when the request_id names another request's run.
        """
        request = ApplyPlaybookRequest(
            project_id=project_id,
            playbook_id=playbook_id,
            scope_id=scope_id,
            rules_hash=rules_hash,
            request_id=request_id or str(uuid4()),
        )
        return await self._connection.unary(self._stub.ApplyPlaybook, request, timeout=timeout)
