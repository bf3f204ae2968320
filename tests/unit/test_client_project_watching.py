"""The client's watch of a project, against a scripted server: where it resumes."""

from contextlib import aclosing
from typing import Any

import grpc
import pytest
from playbooks.runs.v1 import runs_service_pb2 as pb
from playbooks.runs.v1.run_pb2 import Run

from runs_client.client import RunsClient
from runs_client.errors import ServiceCallError
from tests.support.scripted_service import Script, sending, serving


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
