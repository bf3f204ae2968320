"""The client library against a scripted server: resuming watches, retries, errors."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from playbooks.executor.v1 import catalog_service_pb2 as catalog_pb2
from playbooks.executor.v1.catalog_service_pb2_grpc import CatalogServiceServicer, add_CatalogServiceServicer_to_server
from playbooks.runs.v1 import runs_service_pb2 as pb
from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2_grpc import RunsServiceServicer, add_RunsServiceServicer_to_server

from runs_client.client import RunsClient
from runs_client.connection import Connection
from runs_client.errors import DOMAIN, ServiceCallError, Violation
from runs_client.executor import ExecutorClient
from runs_client.service_client import ServiceClient
from servicekit import errors

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


async def fail(context: Context, code: grpc.StatusCode, reason: str = "", field: str = "meta.sample_size") -> None:
    status = status_pb2.Status(code=code.value[0], message=f"refused: {reason}, {field}")
    if reason:
        status.details.add().Pack(
            error_details_pb2.ErrorInfo(reason=reason, domain="playbook-runs", metadata={"run_id": "r"})
        )
        violations = [error_details_pb2.BadRequest.FieldViolation(field=field, description="too many")]
        status.details.add().Pack(error_details_pb2.BadRequest(field_violations=violations))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=Duration(seconds=1, nanos=500_000_000)))
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


async def watched(script: Script, **how: Any) -> list[tuple[str, int]]:
    async with serving(script) as target, RunsClient(target) as client:
        return [
            (pb.WatchRunResponse.Kind.Name(response.kind), response.run.sequence)
            async for response in client.watch("p", "r", **how)
        ]


def sending(*responses: Message, then: grpc.StatusCode | None = None, reason: str = "") -> Stream:
    async def stream(request: pb.WatchRunRequest, context: Context) -> None:
        for response in responses:
            await context.write(response)
        if then:
            await fail(context, then, reason)

    return stream


class TestWatch:
    async def test_it_ends_with_the_runs_end(self) -> None:
        script = Script(sending(change(SNAPSHOT, 1), change(UPDATED, 2), change(UPDATED, 3, SUCCEEDED)))
        assert await watched(script) == [("SNAPSHOT", 1), ("UPDATED", 2), ("UPDATED", 3)]
        assert script.asked == [None]

    @pytest.mark.parametrize(
        ("code", "reason"),
        [
            (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN"),
            (grpc.StatusCode.UNAVAILABLE, ""),
            (grpc.StatusCode.RESOURCE_EXHAUSTED, "WATCHER_TOO_SLOW"),
            (grpc.StatusCode.INTERNAL, ""),
            (grpc.StatusCode.UNKNOWN, ""),
        ],
    )
    async def test_it_resumes_after_the_last_change_it_saw(self, code: grpc.StatusCode, reason: str) -> None:
        script = Script(
            sending(change(SNAPSHOT, 4), change(UPDATED, 5), change(HEARTBEAT, 5), then=code, reason=reason),
            sending(then=code, reason=reason),
            sending(change(UPDATED, 6), then=code, reason=reason),
            sending(change(UPDATED, 7, SUCCEEDED)),
        )
        seen = await watched(script)
        assert seen == [("SNAPSHOT", 4), ("UPDATED", 5), ("HEARTBEAT", 5), ("UPDATED", 6), ("UPDATED", 7)]
        assert script.asked == [None, 5, 5, 6]

    async def test_it_starts_after_the_given_sequence(self) -> None:
        script = Script(sending(change(UPDATED, 9, SUCCEEDED)))
        assert await watched(script, after_sequence=8) == [("UPDATED", 9)]
        assert script.asked == [8]

    async def test_it_goes_on_from_a_snapshot_when_its_place_is_no_longer_kept(self) -> None:
        script = Script(
            sending(then=grpc.StatusCode.OUT_OF_RANGE, reason="SEQUENCE_EXPIRED"),
            sending(change(SNAPSHOT, 90), change(UPDATED, 91, SUCCEEDED)),
        )
        assert await watched(script, after_sequence=2) == [("SNAPSHOT", 90), ("UPDATED", 91)]
        assert script.asked == [2, None]

    async def test_a_service_that_keeps_nothing_is_not_asked_for_ever(self) -> None:
        script = Script(*[sending(then=grpc.StatusCode.OUT_OF_RANGE, reason="SEQUENCE_EXPIRED")] * 3)
        with pytest.raises(ServiceCallError, match="SEQUENCE_EXPIRED"):
            await watched(script, after_sequence=2)
        assert script.asked == [2, None]

    async def test_a_stream_that_ends_well_with_changes_still_to_come_is_taken_up_again(self) -> None:
        script = Script(
            sending(change(SNAPSHOT, 1)),
            sending(change(UPDATED, 2), change(UPDATED, 3, SUCCEEDED)),
            run=Run(status=SUCCEEDED, sequence=3),
        )
        assert await watched(script) == [("SNAPSHOT", 1), ("UPDATED", 2), ("UPDATED", 3)]

    async def test_a_stream_that_ends_well_before_the_run_does_is_taken_up_again(self) -> None:
        script = Script(
            sending(change(SNAPSHOT, 1)), sending(change(UPDATED, 2, SUCCEEDED)), run=Run(status=RUNNING, sequence=1)
        )
        assert await watched(script) == [("SNAPSHOT", 1), ("UPDATED", 2)]

    async def test_a_run_whose_end_was_seen_before_has_no_more_changes(self) -> None:
        script = Script(sending(), run=Run(status=SUCCEEDED, sequence=7))
        assert await watched(script, after_sequence=7) == []
        assert script.asked == [7]

    @pytest.mark.parametrize(
        ("code", "reason"),
        [
            (grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND"),
            (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED"),
            (grpc.StatusCode.INTERNAL, "INTERNAL_ERROR"),
            (grpc.StatusCode.OUT_OF_RANGE, "VALIDATION_FAILED"),
        ],
    )
    async def test_a_refusal_is_raised(self, code: grpc.StatusCode, reason: str) -> None:
        script = Script(sending(change(SNAPSHOT, 1), then=code, reason=reason))
        with pytest.raises(ServiceCallError) as refusal:
            await watched(script)
        assert (refusal.value.code, refusal.value.reason) == (code, reason)
        assert len(script.asked) == 1

    @pytest.mark.parametrize("is_coroutine", [False, True], ids=["function", "coroutine"])
    async def test_it_resumes_with_a_new_token_when_its_own_has_expired(self, is_coroutine: bool) -> None:
        tokens = iter(["one", "one", "two", "two", "two", "three", "three"])

        def token() -> str:
            return next(tokens)

        async def coming() -> str:
            return next(tokens)

        expired = {"then": grpc.StatusCode.UNAUTHENTICATED, "reason": "TOKEN_EXPIRED"}
        script = Script(
            sending(change(SNAPSHOT, 4), then=grpc.StatusCode.UNAVAILABLE),
            sending(change(UPDATED, 5), **expired),  # type: ignore[arg-type]
            sending(change(UPDATED, 6), then=grpc.StatusCode.UNAVAILABLE),
            sending(**expired),  # type: ignore[arg-type]
            sending(change(UPDATED, 7, SUCCEEDED)),
        )
        async with (
            serving(script) as target,
            RunsClient(target, token=coming if is_coroutine else token) as client,
        ):
            seen = [response.run.sequence async for response in client.watch("p", "r")]
        assert seen == [4, 5, 6, 7]
        assert script.asked == [None, 4, 5, 6, 6]
        # Each stream asks for a token, and an expired one before the next stream does, whether there is another.
        assert script.tokens == [f"Bearer {token}" for token in ("one", "one", "two", "two", "three")]

    async def test_a_function_that_has_no_newer_token_ends_it(self) -> None:
        script = Script(sending(change(SNAPSHOT, 1), then=grpc.StatusCode.UNAUTHENTICATED, reason="TOKEN_EXPIRED"))
        async with serving(script) as target, RunsClient(target, token=lambda: "old") as client:
            with pytest.raises(ServiceCallError, match="TOKEN_EXPIRED"):
                async for _ in client.watch("p", "r"):
                    pass
        assert script.asked == [None]

    async def test_a_token_that_is_refused_is_not_replaced(self) -> None:
        tokens = iter("abc")
        script = Script(sending(then=grpc.StatusCode.UNAUTHENTICATED, reason="TOKEN_INVALID"))
        async with serving(script) as target, RunsClient(target, token=lambda: next(tokens)) as client:
            with pytest.raises(ServiceCallError, match="TOKEN_INVALID"):
                async for _ in client.watch("p", "r"):
                    pass

    async def test_a_caller_that_stops_early_frees_the_server(self) -> None:
        async def endless(request: pb.WatchRunRequest, context: Context) -> None:
            await context.write(change(SNAPSHOT, 1))
            await asyncio.Event().wait()

        script = Script(endless)
        async with serving(script) as target, RunsClient(target) as client:
            async with aclosing(client.watch("p", "r")) as responses:
                async for _ in responses:
                    break
            async with asyncio.timeout(5):
                await script.ended.wait()

    async def test_it_gives_up_when_the_service_is_away_for_long(self) -> None:
        script = Script(*[sending(then=grpc.StatusCode.UNAVAILABLE)] * 50, run=Run(id="unreachable"))
        with pytest.raises(ServiceCallError) as refusal:
            await watched(script, give_up_after=1)
        assert refusal.value.code is grpc.StatusCode.UNAVAILABLE
        assert 2 <= len(script.asked) <= 7  # with pauses that grow, or it were 11 and more; a busy machine manages few

    @pytest.mark.parametrize("silent", [False, True], ids=["ended", "silent"])
    async def test_the_error_when_it_gives_up_names_the_address(self, silent: bool) -> None:
        async def one(request: pb.WatchRunRequest, context: Context) -> None:
            if silent:
                await asyncio.Event().wait()

        async with serving(Script(one, run=Run(id="unreachable"))) as target, RunsClient(target) as runs:
            with pytest.raises(ServiceCallError, match="nothing came for" if silent else "the stream ended") as refusal:
                async for _ in runs.watch("p", "r", idle_timeout=0.2, give_up_after=0):
                    pass
        assert refusal.value.target == target

    async def test_streams_that_are_cut_before_a_change_do_not_make_it_give_up(self) -> None:
        cut = sending(then=grpc.StatusCode.UNAVAILABLE)
        script = Script(cut, cut, cut, sending(change(UPDATED, 3, SUCCEEDED)), run=Run(status=RUNNING, sequence=2))
        assert await watched(script, after_sequence=2, give_up_after=0) == [("UPDATED", 3)]
        assert script.calls == 3

    async def test_a_plain_cancelled_is_a_lost_connection(self) -> None:
        async def cut(request: pb.WatchRunRequest, context: Context) -> None:
            await context.abort(grpc.StatusCode.CANCELLED)

        script = Script(cut, sending(change(SNAPSHOT, 2, SUCCEEDED)))
        assert await watched(script) == [("SNAPSHOT", 2)]
        assert len(script.asked) == 2

    async def test_a_connection_without_heartbeats_counts_as_cut(self) -> None:
        async def dead(request: pb.WatchRunRequest, context: Context) -> None:
            await context.write(change(SNAPSHOT, 1))
            await asyncio.Event().wait()

        script = Script(dead, sending(change(UPDATED, 2, SUCCEEDED)))
        assert await watched(script, idle_timeout=0.2) == [("SNAPSHOT", 1), ("UPDATED", 2)]
        assert script.asked == [None, 1]


def message(kind: pb.WatchRunsResponse.Kind.ValueType, position: str, run: Run | None = None) -> pb.WatchRunsResponse:
    return pb.WatchRunsResponse(kind=kind, position=position, run=run)


class TestWatchAll:
    LIST = message(pb.WatchRunsResponse.SNAPSHOT, "a", Run(id="r"))
    CHANGE = message(pb.WatchRunsResponse.UPDATED, "b", Run(id="r", sequence=2))
    BOOKMARK = message(pb.WatchRunsResponse.BOOKMARK, "c")

    async def watched(self, script: Script, *, last: str = "z", **how: Any) -> list[str]:
        """Return the positions of what came, up to the `last` one."""
        positions: list[str] = []
        async with (
            serving(script) as target,
            RunsClient(target) as client,
            aclosing(client.watch_all("p", **how)) as responses,
        ):
            async for response in responses:
                positions.append(response.position)
                if response.position == last:
                    break
        return positions

    @pytest.mark.parametrize(
        ("code", "reason"),
        [
            (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN"),
            (grpc.StatusCode.RESOURCE_EXHAUSTED, "WATCHER_TOO_SLOW"),
            (grpc.StatusCode.INTERNAL, ""),
            (None, ""),
        ],
    )
    async def test_it_resumes_after_the_last_message_it_saw(self, code: grpc.StatusCode | None, reason: str) -> None:
        end = message(pb.WatchRunsResponse.UPDATED, "z", Run(id="r"))
        script = Script(
            sending(self.LIST, then=code, reason=reason),
            sending(self.CHANGE, self.BOOKMARK, then=code, reason=reason),
            sending(then=code, reason=reason),
            sending(end),
        )
        assert await self.watched(script, run_type=Run.APPLY) == ["a", "b", "c", "z"]
        assert [request.after for request in script.watched_all] == ["", "a", "c", "c"]
        assert {request.run_type for request in script.watched_all} == {Run.APPLY}

    async def test_it_starts_after_the_given_position_and_over_when_that_is_no_longer_kept(self) -> None:
        script = Script(
            sending(then=grpc.StatusCode.OUT_OF_RANGE, reason="POSITION_EXPIRED"), sending(self.LIST, self.BOOKMARK)
        )
        assert await self.watched(script, last="c", after="old") == ["a", "c"]
        assert [request.after for request in script.watched_all] == ["old", ""]

    @pytest.mark.parametrize("reason", ["VALIDATION_FAILED", "POSITION_EXPIRED"])
    async def test_a_refusal_is_raised(self, reason: str) -> None:
        script = Script(sending(then=grpc.StatusCode.OUT_OF_RANGE, reason=reason))
        with pytest.raises(ServiceCallError, match=reason):
            await self.watched(script)
        assert len(script.watched_all) == 1

    async def test_streams_that_are_cut_before_a_message_do_not_make_it_give_up(self) -> None:
        cut = sending(then=grpc.StatusCode.UNAVAILABLE)
        assert await self.watched(Script(cut, cut, sending(self.BOOKMARK)), last="c", give_up_after=0) == ["c"]


class TestCalls:
    async def test_an_unavailable_service_is_asked_again(self) -> None:
        script = Script(run=Run(id="flaky"))
        async with serving(script) as target, RunsClient(target, token="abc") as client:
            assert (await client.get("p", "r")).id == "flaky"
        assert script.calls == 3
        assert script.authorization == "Bearer abc"

    @pytest.mark.parametrize("own", [None, "0199d5c2-7c55-4bd4-b9c1-5f1c4a1f6f0e"], ids=["made", "given"])
    async def test_calls_that_make_a_run_repeat_their_request_id(self, own: str | None) -> None:
        script = Script()
        async with serving(script) as target, RunsClient(target) as client:
            for _ in range(2):
                await client.create("p", "missing_seo_title", Run.PREVIEW_GENERATE, request_id=own)
                await client.preview("p", "missing_seo_title", request_id=own)
                await client.apply("p", "missing_seo_title", scope_id="s", rules_hash="h", request_id=own)
        first, second = script.made[::2], script.made[1::2]
        assert len(first) == 6
        assert first == second  # the attempts at one call
        ids = [str(UUID(request.request_id)) for request in first]
        assert set(ids) == {own} if own else len(set(ids)) == 6

    async def test_a_function_is_asked_for_the_token_of_each_call(self) -> None:
        tokens = iter(["one", "two"])
        script = Script(run=Run(id="r"))
        async with serving(script) as target, RunsClient(target, token=lambda: next(tokens)) as client:
            for expected in ("one", "two"):
                await client.get("p", "r")
                assert script.authorization == f"Bearer {expected}"

    async def test_a_function_whose_token_no_call_can_carry_fails_its_call(self) -> None:
        async with RunsClient("127.0.0.1:1", token=lambda: "a\nb") as client:
            with pytest.raises(ServiceCallError, match="the token has a line break or a character"):
                await client.get("p", "r")

    async def test_an_error_carries_all_details_of_the_status(self) -> None:
        async with serving(Script(run=Run(id="bad"))) as target, RunsClient(target) as client:
            with pytest.raises(ServiceCallError) as refusal:
                await client.get("p", "r")
        error = refusal.value
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT
        assert error.reason == "VALIDATION_FAILED"
        assert error.message == "refused: VALIDATION_FAILED, meta.sample_size"
        assert error.violations == (Violation("meta.sample_size", "too many"),)
        assert error.metadata == {"run_id": "r"}
        assert error.retry_after == 1.5

    async def test_lists_go_on_over_pages(self) -> None:
        async with serving(Script()) as target, RunsClient(target) as client:
            runs = [run.id async for run in client.list("p", scope_id="s")]
        assert runs == ["s0a", "s0b", "s1a", "s1b", "s2a", "s2b"]

    async def test_products_go_out_in_batches(self) -> None:
        script = Script()
        products = [catalog_pb2.Product(id=str(number), title="t") for number in range(1201)]
        async with serving(script) as target, ExecutorClient(target) as client:
            stored = await client.put_products("p", products)
        assert script.batches == [500, 500, 201]
        assert (stored.created, stored.updated) == (1201, 3)

    async def test_long_products_go_out_in_smaller_batches(self) -> None:
        script = Script()
        products = [catalog_pb2.Product(id=str(number), description="x" * 1000) for number in range(5)]
        products.append(catalog_pb2.Product(id="long", description="x" * 5000))
        async with serving(script) as target, ExecutorClient(target) as client:
            await client.put_products("p", products, batch_bytes=3000)
        assert script.batches == [2, 2, 1, 1]

    async def test_products_are_deleted_in_batches(self) -> None:
        script = Script()
        async with serving(script) as target, ExecutorClient(target) as client:
            assert await client.delete_products("p", [str(number) for number in range(2001)]) == 2001
            assert await client.delete_products("p", []) == 0
        assert script.batches == [1000, 1000, 1]

    async def test_a_bad_product_is_named_by_its_id(self) -> None:
        products = [catalog_pb2.Product(id=f"p{number}", title="t") for number in range(503)]
        products[501].title = "bad"
        async with serving(Script()) as target, ExecutorClient(target) as client:
            with pytest.raises(ServiceCallError) as refusal:
                await client.put_products("p", products)
        assert refusal.value.violations == (Violation("products['p501'].title", "too many"),)
        assert refusal.value.message.endswith("products['p501'].title")
        assert refusal.value.code is grpc.StatusCode.INVALID_ARGUMENT

    async def test_no_server_is_a_code_without_reason(self) -> None:
        async with serving(Script()) as target:
            pass  # a port that was ours, and where no server answers now
        async with RunsClient(target) as client:
            with pytest.raises(ServiceCallError) as refusal:
                await client.get("p", "r")
        assert (refusal.value.code, refusal.value.reason) == (grpc.StatusCode.UNAVAILABLE, "")

    @pytest.mark.parametrize("token", ["é", "a\nb", "a\tb", "a\0", "abc\n"])
    async def test_a_token_that_no_call_can_carry_is_refused_at_once(self, token: str) -> None:
        for client in (RunsClient, ExecutorClient):
            with pytest.raises(ServiceCallError, match="the token has a line break or a character") as refusal:
                client("127.0.0.1:1", token=token)
            assert (refusal.value.code, refusal.value.target) == (grpc.StatusCode.UNAUTHENTICATED, "127.0.0.1:1")

    @pytest.mark.parametrize("given", ["cert_file", "key_file"])
    async def test_a_certificate_and_its_key_go_together(self, given: str, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="go together"):
            Connection("127.0.0.1:1", **{given: tmp_path / "file"})  # type: ignore[arg-type]


class TestErrors:
    """What a rich status becomes, from our services and from others."""

    @staticmethod
    def failed(*details: Message, code: int = 14) -> grpc.aio.AioRpcError:
        status = status_pb2.Status(code=code, message="said")
        for detail in details:
            status.details.add().Pack(detail)
        trailers = grpc.aio.Metadata(("grpc-status-details-bin", status.SerializeToString()))
        return grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), trailers, details="said")

    def test_the_domain_is_that_of_the_services(self) -> None:
        assert DOMAIN == errors.DOMAIN

    def test_a_proxys_error_info_gives_no_reason(self) -> None:
        info = error_details_pb2.ErrorInfo(reason="RUN_NOT_FOUND", domain="googleapis.com", metadata={"a": "b"})
        bad = error_details_pb2.BadRequest(field_violations=[error_details_pb2.BadRequest.FieldViolation(field="x")])
        retry = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=3))
        error = ServiceCallError.from_call(self.failed(info, bad, retry), "here:1")
        assert (error.reason, error.metadata, error.violations, error.message) == ("", {}, (), "said")
        assert error.retry_after == 3.0

    def test_without_retry_info_there_is_no_time_to_retry(self) -> None:
        info = error_details_pb2.ErrorInfo(reason="SHUTTING_DOWN", domain=DOMAIN)
        error = ServiceCallError.from_call(self.failed(info))
        assert (error.reason, error.retry_after) == ("SHUTTING_DOWN", None)

    def test_trailers_that_contradict_the_status_are_not_read(self) -> None:
        info = error_details_pb2.ErrorInfo(reason="RUN_NOT_FOUND", domain=DOMAIN)
        error = ServiceCallError.from_call(self.failed(info, code=5))
        assert (error.code, error.reason, error.message) == (grpc.StatusCode.UNAVAILABLE, "", "said")

    def test_a_renamed_error_keeps_the_rest(self) -> None:
        error = ServiceCallError(
            grpc.StatusCode.UNAVAILABLE, "R", "m", metadata={"a": "b"}, retry_after=2.0, target="here:1"
        ).with_fields_renamed(str.upper)
        assert (error.message, error.metadata, error.retry_after, error.target) == ("M", {"a": "b"}, 2.0, "here:1")


def public_methods() -> list[Any]:
    return [
        pytest.param(method, id=f"{client.__name__}.{name}")
        for client in (RunsClient, ExecutorClient)
        for name, method in vars(client).items()
        if not name.startswith("_")
    ]


def raised_by(method: Any) -> set[str]:
    """The reasons that a method's docstring names."""
    _, _, raised = " ".join(method.__doc__.split()).partition("Raises ServiceCallError: ")
    return set(re.findall(r"\b[A-Z]+_[A-Z_]+\b", raised))


@pytest.mark.parametrize("method", public_methods())
def test_the_docstring_of_each_method_names_the_reasons_it_raises(method: Any) -> None:
    named = raised_by(method)
    assert named
    assert named <= set(errors.Reason)


def test_every_reason_stands_in_a_docstring() -> None:
    documented = " ".join(method.values[0].__doc__ for method in public_methods()) + (ServiceClient.__doc__ or "")
    assert [reason for reason in errors.Reason if reason not in documented] == []
