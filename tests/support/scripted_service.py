"""A server whose answers a test has written down, stream by stream, and the messages for it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from playbooks.executor.v1 import catalog_service_pb2 as catalog_pb2
from playbooks.executor.v1.catalog_service_pb2_grpc import CatalogServiceServicer, add_CatalogServiceServicer_to_server
from playbooks.runs.v1 import runs_service_pb2 as pb
from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2_grpc import RunsServiceServicer, add_RunsServiceServicer_to_server

Context = grpc.aio.ServicerContext
Stream = Callable[[Any, Context], Awaitable[None]]
MakesRun = pb.CreateRunRequest | pb.PreviewPlaybookRequest | pb.ApplyPlaybookRequest
RUNNING, SUCCEEDED = Run.RUNNING, Run.SUCCEEDED
SNAPSHOT, UPDATED, HEARTBEAT = (
    pb.WatchRunResponse.SNAPSHOT,
    pb.WatchRunResponse.UPDATED,
    pb.WatchRunResponse.HEARTBEAT,
)


def change(
    kind: pb.WatchRunResponse.Kind.ValueType, sequence: int, status: Run.Status.ValueType = RUNNING
) -> pb.WatchRunResponse:
    return pb.WatchRunResponse(kind=kind, run=Run(id="r", sequence=sequence, status=status))


async def fail(
    context: Context,
    code: grpc.StatusCode,
    reason: str = "",
    field: str = "meta.sample_size",
    *,
    retry_after: float = 1.5,
) -> None:
    status = status_pb2.Status(code=code.value[0], message=f"refused: {reason}, {field}")
    if reason:
        status.details.add().Pack(
            error_details_pb2.ErrorInfo(reason=reason, domain="playbook-runs", metadata={"run_id": "r"})
        )
        violations = [error_details_pb2.BadRequest.FieldViolation(field=field, description="too many")]
        status.details.add().Pack(error_details_pb2.BadRequest(field_violations=violations))
        delay = Duration()
        delay.FromNanoseconds(round(retry_after * 1e9))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    await context.abort_with_status(rpc_status.to_status(status))


class Script(RunsServiceServicer, CatalogServiceServicer):  # type: ignore[misc]
    """Serves one stream after the other, and remembers what it was asked."""

    def __init__(self, *streams: Stream, run: Run | None = None) -> None:
        self.streams = list(streams)
        self.run = run or Run()
        self.asked: list[int | None] = []
        self.watched_all: list[pb.WatchRunsRequest] = []
        self.ended = asyncio.Event()
        self.calls = 0
        self.batches: list[int] = []
        self.authorization: object = None
        self.tokens: list[object] = []  # of streams
        self.made: list[MakesRun] = []

    async def WatchRun(self, request: pb.WatchRunRequest, context: Context) -> None:  # type: ignore[override]
        self.asked.append(request.after_sequence if request.HasField("after_sequence") else None)
        self.tokens.append(dict(context.invocation_metadata() or ()).get("authorization"))
        try:
            await self.streams.pop(0)(request, context)
        finally:
            self.ended.set()

    async def WatchRuns(self, request: pb.WatchRunsRequest, context: Context) -> None:  # type: ignore[override]
        self.watched_all.append(request)
        await self.streams.pop(0)(request, context)

    async def GetRun(self, request: pb.GetRunRequest, context: Context) -> pb.GetRunResponse:  # type: ignore[override]
        self.calls += 1
        self.authorization = dict(context.invocation_metadata() or ()).get("authorization")
        if self.run.id == "flaky" and self.calls < 3:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        if self.run.id == "unreachable":
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not now either")
        if self.run.id == "bad":
            await fail(context, grpc.StatusCode.INVALID_ARGUMENT, "VALIDATION_FAILED")
        return pb.GetRunResponse(run=self.run)

    async def GetUsage(self, request: pb.GetUsageRequest, context: Context) -> pb.GetUsageResponse:  # type: ignore[override]
        self.calls += 1
        if self.run.id == "flaky" and self.calls < 3:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        return pb.GetUsageResponse(to="2026-05-04")

    async def CreateRun(self, request: pb.CreateRunRequest, context: Context) -> pb.CreateRunResponse:  # type: ignore[override]
        await self._make(request, context)
        return pb.CreateRunResponse(run=Run(id="r"))

    async def PreviewPlaybook(  # type: ignore[override]
        self, request: pb.PreviewPlaybookRequest, context: Context
    ) -> pb.PreviewPlaybookResponse:
        await self._make(request, context)
        return pb.PreviewPlaybookResponse(run=Run(id="r"))

    async def ApplyPlaybook(  # type: ignore[override]
        self, request: pb.ApplyPlaybookRequest, context: Context
    ) -> pb.ApplyPlaybookResponse:
        await self._make(request, context)
        return pb.ApplyPlaybookResponse(run=Run(id="r"))

    async def _make(self, request: MakesRun, context: Context) -> None:
        self.made.append(request)
        if len(self.made) % 2:  # as after a cut: the client asks again
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not now")

    async def ListRuns(self, request: pb.ListRunsRequest, context: Context) -> pb.ListRunsResponse:  # type: ignore[override]
        page = int(request.page_token or 0)
        runs = [Run(id=f"{request.scope_id}{page}{place}") for place in "ab"]
        return pb.ListRunsResponse(runs=runs, next_page_token=str(page + 1) if page < 2 else "")

    async def PutProducts(  # type: ignore[override]
        self, request: catalog_pb2.PutProductsRequest, context: Context
    ) -> catalog_pb2.PutProductsResponse:
        self.batches.append(len(request.products))
        for place, product in enumerate(request.products):
            if product.title == "bad":
                await fail(context, grpc.StatusCode.INVALID_ARGUMENT, "VALIDATION_FAILED", f"products[{place}].title")
        return catalog_pb2.PutProductsResponse(created=len(request.products), updated=1)

    async def DeleteProducts(  # type: ignore[override]
        self, request: catalog_pb2.DeleteProductsRequest, context: Context
    ) -> catalog_pb2.DeleteProductsResponse:
        self.batches.append(len(request.product_ids))
        return catalog_pb2.DeleteProductsResponse(deleted=len(request.product_ids))


@asynccontextmanager
async def serving(script: Script) -> AsyncIterator[str]:
    server = grpc.aio.server()
    add_RunsServiceServicer_to_server(script, server)
    add_CatalogServiceServicer_to_server(script, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


def sending(
    *responses: Message, then: grpc.StatusCode | None = None, reason: str = "", retry_after: float = 0.0
) -> Stream:
    async def stream(request: pb.WatchRunRequest, context: Context) -> None:
        for response in responses:
            await context.write(response)
        if then:
            await fail(context, then, reason, retry_after=retry_after)

    return stream
