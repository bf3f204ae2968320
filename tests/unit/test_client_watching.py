"""The client's watch of a run, against a scripted server: where it resumes, and when it gives up."""

import asyncio
import time
from contextlib import aclosing
from typing import Any

import grpc
import pytest
from playbooks.runs.v1 import runs_service_pb2 as pb
from playbooks.runs.v1.run_pb2 import Run

from runs_client.client import RunsClient
from runs_client.errors import ServiceCallError
from tests.support.scripted_service import (
    HEARTBEAT,
    RUNNING,
    SNAPSHOT,
    SUCCEEDED,
    UPDATED,
    Context,
    Script,
    change,
    sending,
    serving,
)
from tests.support.waiting import eventually


async def watched(script: Script, **how: Any) -> list[tuple[str, int]]:
    async with serving(script) as target, RunsClient(target) as client:
        return [
            (pb.WatchRunResponse.Kind.Name(response.kind), response.run.sequence)
            async for response in client.watch("p", "r", **how)
        ]


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
            (grpc.StatusCode.DEADLINE_EXCEEDED, ""),  # a proxy's time is over: a watch has no deadline
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

    async def test_it_resumes_no_sooner_than_the_service_says(self) -> None:
        script = Script(
            sending(change(SNAPSHOT, 1), then=grpc.StatusCode.UNAVAILABLE, reason="SHUTTING_DOWN", retry_after=0.9),
            sending(change(UPDATED, 2, SUCCEEDED)),
        )
        started = time.monotonic()
        assert await watched(script) == [("SNAPSHOT", 1), ("UPDATED", 2)]
        assert time.monotonic() - started >= 0.9

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

    async def test_it_gives_up_when_the_service_takes_no_more_watches_for_long(self) -> None:
        full = sending(then=grpc.StatusCode.RESOURCE_EXHAUSTED, reason="TOO_MANY_CALLS")
        script = Script(full, full, full, sending(change(UPDATED, 3, SUCCEEDED)), run=Run(status=RUNNING, sequence=2))
        with pytest.raises(ServiceCallError, match="TOO_MANY_CALLS"):
            await watched(script, give_up_after=0)

    @pytest.mark.parametrize("dawdles", ["before", "within"])
    async def test_the_time_that_its_caller_takes_is_not_the_service_s(self, dawdles: str) -> None:
        async def dawdle() -> None:
            until = time.monotonic() + 2.1
            await eventually(lambda: time.monotonic() > until)

        script = Script(
            sending(change(SNAPSHOT, 1), then=grpc.StatusCode.UNAVAILABLE),
            sending(change(UPDATED, 2, SUCCEEDED)),
            run=Run(id="unreachable"),
        )
        if dawdles == "before":
            script.streams.insert(0, sending(then=grpc.StatusCode.UNAVAILABLE))
        seen: list[int] = []
        async with serving(script) as target, RunsClient(target) as client:
            watch = client.watch("p", "r", give_up_after=2)
            if dawdles == "before":
                await dawdle()
            async for response in watch:
                seen.append(response.run.sequence)
                if dawdles == "within":
                    await dawdle()
        assert seen == [1, 2]

    @pytest.mark.parametrize("silent", [False, True], ids=["ended", "silent"])
    async def test_the_error_when_it_gives_up_names_the_address(self, silent: bool) -> None:
        async def one(request: pb.WatchRunRequest, context: Context) -> None:
            if silent:
                await asyncio.Event().wait()

        async with serving(Script(one, run=Run(id="unreachable"))) as target, RunsClient(target) as runs:
            with pytest.raises(ServiceCallError, match="nothing came for" if silent else "the stream ended") as refusal:
                async for _ in runs.watch("p", "r", idle_timeout=1.0, give_up_after=0):
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
        assert await watched(script, idle_timeout=1.0) == [("SNAPSHOT", 1), ("UPDATED", 2)]
        assert script.asked == [None, 1]
