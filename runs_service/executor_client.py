"""The executor, as runs_service calls it."""

import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from datetime import timedelta
from typing import TypeVar

import grpc
from google.protobuf.message import Message
from playbooks.executor.v1.executor_service_pb2 import (
    CancelRunsRequest,
    DeleteProjectRequest,
    DeleteProjectResponse,
    ExecuteRunRequest,
    GetDraftRequest,
    ListRunItemsRequest,
    ReconcileRunsRequest,
    ReconcileRunsResponse,
)
from playbooks.executor.v1.executor_service_pb2_grpc import ExecutorServiceStub
from playbooks.executor.v1.job_pb2 import RunEvent, RunJob
from playbooks.runs.v1.run_pb2 import Draft, Run, RunItem

from servicekit.auth.tokens import ServiceTokens
from servicekit.errors import Reason, ServiceError, error_info
from servicekit.rpc.interceptors.request_ids import HEADER, current_request_id
from servicekit.telemetry.outages import Reminder
from servicekit.telemetry.trace_context import HEADER as TRACEPARENT
from servicekit.telemetry.trace_context import current_traceparent

logger = logging.getLogger(__name__)

# Seconds for each attempt of a read. A retry goes to the next replica, because one that stands still answers no call.
# The last is for an executor that is slow.
READ_TIMEOUTS = (2.0, 2.0, 6.0)
CANCEL_TIMEOUT = 1.5  # seconds; the caller of CancelRun waits for it
DELETE_TIMEOUT = 15.0  # seconds; the executor works for three, and ends the statement that it is at
MAX_ITEMS = 1000

UNREACHABLE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
AUTH_FAILURES = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
# Reasons that our callers get as they are; all others are between the two services.
PASSED_ON = {reason.value: reason for reason in (Reason.DRAFT_NOT_FOUND, Reason.RUN_NOT_FOUND)}

Answer = TypeVar("Answer", bound=Message)


class ExecutorRefused(ServiceError):
    """The executor answered with a refusal: something is wrong with one of the two services.

    `is_systemic`: it would refuse every other call as well. The log says why.
    """

    def __init__(self, promise: str, *, is_systemic: bool) -> None:
        request_id = current_request_id()
        where = f"the log has the details under request id {request_id}" if request_id else "the log has the details"
        super().__init__(
            Reason.INTERNAL_ERROR,
            f"the executor refuses the call; {promise}; {where}",
            metadata={"request_id": request_id} if request_id else None,
        )
        self.is_systemic = is_systemic


class ExecutorClient:
    """Calls the executor with a service token (None: authentication is disabled).

    Every method raises ServiceError: EXECUTOR_UNAVAILABLE when the executor cannot be reached, and ExecutorRefused when
    it refuses the call.
    """

    def __init__(self, channel: grpc.aio.Channel, tokens: ServiceTokens | None) -> None:
        self._stub = ExecutorServiceStub(channel)
        self._tokens = tokens
        self._reminder = Reminder(level=logging.ERROR)

    async def execute(self, job: RunJob) -> AsyncGenerator[RunEvent, None]:
        """Execute a run and yield its events up to the terminal one."""
        metadata = self._metadata(job.request_id, job.traceparent)
        call = self._stub.ExecuteRun(ExecuteRunRequest(job=job), metadata=metadata)
        try:
            with self._translated("ExecuteRun", "the run is kept and will be executed"):
                async for response in call:
                    yield response.event
        finally:
            call.cancel()

    async def reconcile(self, run_ids: Sequence[str]) -> ReconcileRunsResponse:
        """Return how these runs stand at the executor."""
        request = ReconcileRunsRequest(run_ids=run_ids)
        with self._translated("ReconcileRuns", "the runs are kept, and asked about again"):
            return await self._read(self._stub.ReconcileRuns, request)

    async def cancel(self, jobs: Sequence[RunJob]) -> Sequence[RunEvent]:
        """End runs that have not ended; return how they stand then."""
        request = CancelRunsRequest(jobs=jobs)
        with self._translated("CancelRuns", "the cancel is kept and sent again"):
            return (await self._stub.CancelRuns(request, timeout=CANCEL_TIMEOUT, metadata=self._metadata())).events

    async def draft(self, run: Run) -> Draft | None:
        """Return the draft a run wrote; None when it wrote none. Raises DRAFT_NOT_FOUND too."""
        if not run.draft_id:
            return None
        request = GetDraftRequest(project_id=run.project_id, draft_id=run.draft_id)
        with self._translated(
            "GetDraft", f"run {run.id} has ended; read its draft {run.draft_id} later, with GetDraft"
        ):
            return (await self._read(self._stub.GetDraft, request)).draft

    async def items(self, run: Run) -> list[RunItem]:
        """Return what an APPLY did with each product, at most 1,000 of them. Raises RUN_NOT_FOUND too."""
        if run.status != Run.SUCCEEDED:
            return []  # it wrote nothing, and the executor may not know it
        request = ListRunItemsRequest(project_id=run.project_id, run_id=run.id, limit=MAX_ITEMS)
        with self._translated("ListRunItems", f"run {run.id} has ended; read its items later, with ListRunItems"):
            return list((await self._read(self._stub.ListRunItems, request)).items)

    async def delete_project(self, project_id: str, *, keep_plan: bool) -> DeleteProjectResponse:
        """Delete what the executor has of a project, for some seconds; return what that was."""
        request = DeleteProjectRequest(project_id=project_id, keep_plan=keep_plan)
        with self._translated("DeleteProject", "what was deleted stays deleted, and the same call goes on"):
            return await self._stub.DeleteProject(request, timeout=DELETE_TIMEOUT, metadata=self._metadata())

    async def _read(self, method: Callable[..., Awaitable[Answer]], request: Message) -> Answer:
        """Call a method that only reads; retry while no answer comes."""
        *retried, last = READ_TIMEOUTS
        for timeout in retried:
            try:
                return await method(request, timeout=timeout, metadata=self._metadata())
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                    raise
        return await method(request, timeout=last, metadata=self._metadata())

    def _metadata(self, request_id: str = "", traceparent: str = "") -> tuple[tuple[str, str], ...]:
        pairs = [(HEADER, request_id or current_request_id()), (TRACEPARENT, traceparent or current_traceparent())]
        if self._tokens:
            pairs.append(("authorization", f"Bearer {self._tokens.token()}"))
        return tuple(pair for pair in pairs if pair[1])

    @contextlib.contextmanager
    def _translated(self, method: str, promise: str) -> Iterator[None]:
        """Turn the failure of a call into a ServiceError that says what becomes of the caller's run (`promise`)."""
        try:
            yield
        except grpc.aio.AioRpcError as error:
            raise self._translation(method, promise, error) from error

    def _translation(self, method: str, promise: str, error: grpc.aio.AioRpcError) -> ServiceError:
        code = error.code()
        if code in UNREACHABLE:
            return ServiceError(
                Reason.EXECUTOR_UNAVAILABLE,
                f"the executor does not answer ({code.name}); {promise}",
                retry_after=timedelta(seconds=1),
            )
        info = error_info(error)
        if info and info.reason in PASSED_ON:
            return ServiceError(PASSED_ON[info.reason], error.details() or "", metadata=dict(info.metadata))
        hint = "; do both services have the same AUTH_MODE and AUTH_JWT_SECRET?" if code in AUTH_FAILURES else ""
        level = self._reminder.level_for((method, code))
        logger.log(level, "the executor refuses %s: %s, %s%s", method, code.name, error.details(), hint)
        return ExecutorRefused(promise, is_systemic=code in (*AUTH_FAILURES, grpc.StatusCode.UNIMPLEMENTED))
