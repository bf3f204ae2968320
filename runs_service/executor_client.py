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

logger = logging.getLogger(__name__)

# Seconds a question may take, the first time and when it is asked again: of the next replica, for one that stands still
# answers nobody. The last is for an executor that is slow.
READ_TIMEOUTS = (2.0, 2.0, 6.0)
CANCEL_TIMEOUT = 1.5  # seconds; who cancels waits for it
MAX_ITEMS = 1000

UNREACHABLE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
UNWELCOME = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
# What the executor says that is our callers' business too; the rest is between the two services.
PASSED_ON = {reason.value: reason for reason in (Reason.DRAFT_NOT_FOUND, Reason.RUN_NOT_FOUND)}

Answer = TypeVar("Answer", bound=Message)


class ExecutorRefused(ServiceError):
    """The executor answered, and does not do what it was asked: something is wrong with one of the two services.

    `whatever_it_is`: it would refuse everything else as well. The log says why.
    """

    def __init__(self, promise: str, *, whatever_it_is: bool) -> None:
        request_id = current_request_id()
        where = f"the log has the details under request id {request_id}" if request_id else "the log has the details"
        super().__init__(
            Reason.INTERNAL_ERROR,
            f"the executor refuses what it was asked; {promise}; {where}",
            metadata={"request_id": request_id} if request_id else None,
        )
        self.whatever_it_is = whatever_it_is


class ExecutorClient:
    """Calls the executor with a service token (None: authentication is disabled).

    Every method raises ServiceError: EXECUTOR_UNAVAILABLE when the executor cannot be reached, and ExecutorRefused when
    it does not do what it was asked.
    """

    def __init__(self, channel: grpc.aio.Channel, tokens: ServiceTokens | None) -> None:
        self._stub = ExecutorServiceStub(channel)
        self._tokens = tokens

    async def execute(self, job: RunJob) -> AsyncGenerator[RunEvent, None]:
        """Execute a run and yield its events up to the terminal one."""
        call = self._stub.ExecuteRun(ExecuteRunRequest(job=job), metadata=self._metadata(job.request_id))
        try:
            with _translated("ExecuteRun", "the run is kept and will be executed"):
                async for response in call:
                    yield response.event
        finally:
            call.cancel()

    async def reconcile(self, run_ids: Sequence[str]) -> ReconcileRunsResponse:
        """Return how these runs stand at the executor."""
        request = ReconcileRunsRequest(run_ids=run_ids)
        with _translated("ReconcileRuns", "the runs are kept, and asked about again"):
            return await self._read(self._stub.ReconcileRuns, request)

    async def cancel(self, jobs: Sequence[RunJob]) -> Sequence[RunEvent]:
        """End runs that have not ended; return how they stand then."""
        request = CancelRunsRequest(jobs=jobs)
        with _translated("CancelRuns", "that they shall end is kept and told again"):
            return (await self._stub.CancelRuns(request, timeout=CANCEL_TIMEOUT, metadata=self._metadata())).events

    async def draft(self, run: Run) -> Draft | None:
        """Return the draft a run wrote; None when it wrote none. Raises DRAFT_NOT_FOUND too."""
        if not run.draft_id:
            return None
        request = GetDraftRequest(project_id=run.project_id, draft_id=run.draft_id)
        with _translated("GetDraft", f"run {run.id} has ended; read its draft {run.draft_id} later, with GetDraft"):
            return (await self._read(self._stub.GetDraft, request)).draft

    async def items(self, run: Run) -> list[RunItem]:
        """Return what an APPLY did with each product, at most 1,000 of them. Raises RUN_NOT_FOUND too."""
        if run.status != Run.SUCCEEDED:
            return []  # it wrote nothing, and the executor may never have heard of it
        request = ListRunItemsRequest(project_id=run.project_id, run_id=run.id, limit=MAX_ITEMS)
        with _translated("ListRunItems", f"run {run.id} has ended; read its items later, with ListRunItems"):
            return list((await self._read(self._stub.ListRunItems, request)).items)

    async def _read(self, method: Callable[..., Awaitable[Answer]], request: Message) -> Answer:
        """Ask, and again when no answer comes: what only reads may be asked as often as we like."""
        *patience, last = READ_TIMEOUTS
        for timeout in patience:
            try:
                return await method(request, timeout=timeout, metadata=self._metadata())
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                    raise
        return await method(request, timeout=last, metadata=self._metadata())

    def _metadata(self, request_id: str = "") -> tuple[tuple[str, str], ...]:
        pairs = [(HEADER, request_id or current_request_id())]
        if self._tokens:
            pairs.append(("authorization", f"Bearer {self._tokens.token()}"))
        return tuple(pair for pair in pairs if pair[1])


@contextlib.contextmanager
def _translated(method: str, promise: str) -> Iterator[None]:
    """Turn the failure of a call into a ServiceError that says `promise`: what becomes of the caller's run."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise _translation(method, promise, error) from error


def _translation(method: str, promise: str, error: grpc.aio.AioRpcError) -> ServiceError:
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
    hint = "; do both services have the same AUTH_MODE and AUTH_JWT_SECRET?" if code in UNWELCOME else ""
    logger.error("the executor refuses %s: %s, %s%s", method, code.name, error.details(), hint)
    return ExecutorRefused(promise, whatever_it_is=code in (*UNWELCOME, grpc.StatusCode.UNIMPLEMENTED))
