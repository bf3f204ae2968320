"""The executor, as runs_service calls it."""

import contextlib
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

from servicekit.auth import ServiceTokens
from servicekit.errors import Reason, ServiceError
from servicekit.interceptors.request_ids import HEADER, current_request_id

# Seconds a question may take, the first time and when it is asked again: of the next replica, for one that stands still
# answers nobody. The last is for an executor that is slow.
READ_TIMEOUTS = (2.0, 2.0, 6.0)
CANCEL_TIMEOUT = 1.5  # seconds; who cancels waits for it
MAX_ITEMS = 1000

Answer = TypeVar("Answer", bound=Message)


class ExecutorClient:
    """Calls the executor with a service token (None: authentication is disabled).

    Every method raises ServiceError (EXECUTOR_UNAVAILABLE) when the executor cannot be reached or fails.
    """

    def __init__(self, channel: grpc.aio.Channel, tokens: ServiceTokens | None) -> None:
        self._stub = ExecutorServiceStub(channel)
        self._tokens = tokens

    async def execute(self, job: RunJob) -> AsyncGenerator[RunEvent, None]:
        """Execute a run and yield its events up to the terminal one."""
        call = self._stub.ExecuteRun(ExecuteRunRequest(job=job), metadata=self._metadata(job.request_id))
        try:
            with _translated():
                async for response in call:
                    yield response.event
        finally:
            call.cancel()

    async def reconcile(self, run_ids: Sequence[str]) -> ReconcileRunsResponse:
        """Return how these runs stand at the executor."""
        return await self._read(self._stub.ReconcileRuns, ReconcileRunsRequest(run_ids=run_ids))

    async def cancel(self, jobs: Sequence[RunJob]) -> Sequence[RunEvent]:
        """End runs that have not ended; return how they stand then."""
        request = CancelRunsRequest(jobs=jobs)
        with _translated():
            return (await self._stub.CancelRuns(request, timeout=CANCEL_TIMEOUT, metadata=self._metadata())).events

    async def draft(self, run: Run) -> Draft | None:
        """Return the draft a run wrote; None when it wrote none."""
        if not run.draft_id:
            return None
        request = GetDraftRequest(project_id=run.project_id, draft_id=run.draft_id)
        return (await self._read(self._stub.GetDraft, request)).draft

    async def items(self, run: Run) -> list[RunItem]:
        """Return what an APPLY did with each product, at most 1,000 of them."""
        request = ListRunItemsRequest(project_id=run.project_id, run_id=run.id, limit=MAX_ITEMS)
        return list((await self._read(self._stub.ListRunItems, request)).items)

    async def _read(self, method: Callable[..., Awaitable[Answer]], request: Message) -> Answer:
        """Ask, and again when no answer comes: what only reads may be asked as often as we like."""
        *patience, last = READ_TIMEOUTS
        with _translated():
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
def _translated() -> Iterator[None]:
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise ServiceError(
            Reason.EXECUTOR_UNAVAILABLE,
            f"the executor does not answer ({error.code().name}); the run is kept and will be executed",
            retry_after=timedelta(seconds=1),
        ) from error
