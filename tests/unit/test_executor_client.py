"""What runs_service makes of the executor's answers: away, refusing, and what is its caller's business."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import grpc
import pytest
from playbooks.executor.v1.executor_service_pb2_grpc import (
    ExecutorServiceServicer,
    add_ExecutorServiceServicer_to_server,
)
from playbooks.executor.v1.job_pb2 import RunJob
from playbooks.runs.v1.run_pb2 import Run

from devstack.ports import HOST
from runs_service.executor_client import ExecutorClient, ExecutorRefused
from servicekit.errors import Reason, ServiceError

RUN = Run(id="the-run", project_id="p", draft_id="the-draft", status=Run.SUCCEEDED)
Call = Callable[[ExecutorClient], Awaitable[object]]


async def execute(client: ExecutorClient) -> None:
    async with aclosing(client.execute(RunJob())) as events:
        async for _ in events:
            pass


CALLS: dict[str, Call] = {
    "ExecuteRun": execute,
    "ReconcileRuns": lambda client: client.reconcile(["the-run"]),
    "CancelRuns": lambda client: client.cancel([RunJob()]),
    "GetDraft": lambda client: client.draft(RUN),
    "ListRunItems": lambda client: client.items(RUN),
}
each_call = pytest.mark.parametrize("method", CALLS)


class Failing(ExecutorServiceServicer):  # type: ignore[misc]
    """Answers everything with one failure: ours, or one that gRPC or a proxy made (a status code)."""

    def __init__(self, failure: ServiceError | grpc.StatusCode) -> None:
        self._failure = failure

    async def _fail(self, request: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        if isinstance(self._failure, grpc.StatusCode):
            await context.abort(self._failure, "on purpose")
        else:
            await context.abort_with_status(self._failure.to_status())

    ExecuteRun = ReconcileRuns = CancelRuns = GetDraft = ListRunItems = _fail  # type: ignore[assignment]


@asynccontextmanager
async def client_of(failure: ServiceError | grpc.StatusCode) -> AsyncIterator[ExecutorClient]:
    server = grpc.aio.server()
    add_ExecutorServiceServicer_to_server(Failing(failure), server)
    port = server.add_insecure_port(f"{HOST}:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"{HOST}:{port}") as channel:
            yield ExecutorClient(channel, None)
    finally:
        await server.stop(None)


async def failure_of(method: str, failure: ServiceError | grpc.StatusCode) -> ServiceError:
    async with client_of(failure) as client:
        with pytest.raises(ServiceError) as caught:
            await CALLS[method](client)
    return caught.value


@each_call
@pytest.mark.parametrize(
    "failure",
    [
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.CANCELLED,
        ServiceError(Reason.SHUTTING_DOWN, "bye"),
        ServiceError(Reason.DATABASE_UNAVAILABLE, "no database"),
    ],
    ids=str,
)
async def test_an_executor_that_is_away_is_unavailable(method: str, failure: ServiceError | grpc.StatusCode) -> None:
    error = await failure_of(method, failure)
    assert error.reason is Reason.EXECUTOR_UNAVAILABLE
    assert error.retry_after is not None
    if method in ("GetDraft", "ListRunItems"):
        assert "run the-run has ended; read its" in error.message
        assert "will be executed" not in error.message


@each_call
@pytest.mark.parametrize(
    "failure",
    [
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.RESOURCE_EXHAUSTED,  # too large for gRPC
        grpc.StatusCode.UNAUTHENTICATED,
        ServiceError(Reason.TOKEN_INVALID, "the token is not valid"),
        ServiceError(Reason.ROLE_TOO_LOW, "this needs the role SERVICE"),
        ServiceError(Reason.VALIDATION_FAILED, "jobs[0]: playbook 'x' is not known here"),
        ServiceError(Reason.METHOD_UNKNOWN, "there is no such method"),
    ],
    ids=str,
)
async def test_a_refusal_is_no_outage(
    method: str, failure: ServiceError | grpc.StatusCode, caplog: pytest.LogCaptureFixture
) -> None:
    error = await failure_of(method, failure)
    assert isinstance(error, ExecutorRefused)
    assert error.reason is Reason.INTERNAL_ERROR
    code = failure.code if isinstance(failure, ServiceError) else failure
    assert error.is_systemic == (code.name in ("UNAUTHENTICATED", "PERMISSION_DENIED", "UNIMPLEMENTED"))
    (line,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert method in line.message
    assert code.name in line.message
    assert ("AUTH_JWT_SECRET" in line.message) == (code.name in ("UNAUTHENTICATED", "PERMISSION_DENIED"))


@pytest.mark.parametrize("status", [Run.FAILED, Run.STALE, Run.CANCELLED], ids=Run.Status.Name)
async def test_a_run_that_wrote_nothing_has_no_items_and_the_executor_is_not_asked(
    status: Run.Status.ValueType,
) -> None:
    async with client_of(ServiceError(Reason.RUN_NOT_FOUND, "it never arrived")) as client:
        assert await client.items(Run(id="the-run", project_id="p", status=status)) == []


@pytest.mark.parametrize("method", ["GetDraft", "ListRunItems"])
@pytest.mark.parametrize("reason", [Reason.DRAFT_NOT_FOUND, Reason.RUN_NOT_FOUND])
async def test_what_is_the_callers_business_is_passed_on(method: str, reason: Reason) -> None:
    error = await failure_of(method, ServiceError(reason, "it is gone", metadata={"project_id": "p"}))
    assert (error.reason, error.message, error.metadata) == (reason, "it is gone", {"project_id": "p"})
