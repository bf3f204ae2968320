"""WAT-001: watching runs."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from uuid import uuid4

import grpc
import pytest
from playbooks.runs.v1 import runs_service_pb2 as pb
from playbooks.runs.v1.run_pb2 import Run, RunMeta

from tests.support.openai_protocol import Behaviour
from tests.support.openai_server import OpenAIServer
from tests.support.runs import TERMINAL
from tests.support.shop import Shop, log_lines, refusal
from tests.support.waiting import eventually

SNAPSHOT, UPDATED, HEARTBEAT = pb.WatchRunResponse.SNAPSHOT, pb.WatchRunResponse.UPDATED, pb.WatchRunResponse.HEARTBEAT


def assert_whole(messages: Sequence[pb.WatchRunResponse], *, first: int) -> None:
    """Ordered, unique, reliable: every sequence from `first` to the terminal one, each once."""
    changes = [message.run.sequence for message in messages if message.kind != HEARTBEAT]
    assert changes == list(range(first, first + len(changes)))
    assert messages[-1].run.status in TERMINAL
    assert all(message.run.status not in TERMINAL for message in messages[:-1])


async def test_WAT_001_a_snapshot_at_once_then_every_change_to_the_end(shop: Shop, openai: OpenAIServer) -> None:
    await shop.stock(30)
    openai.behave(Behaviour(delay_seconds=0.3))
    run = (await shop.create(Run.PREVIEW_GENERATE, meta=RunMeta(sample_size=30))).run

    messages = await shop.watch(run.id)

    assert messages[0].kind == SNAPSHOT
    assert {message.kind for message in messages[1:]} == {UPDATED}
    assert_whole(messages, first=messages[0].run.sequence)
    completed = [message.run.progress.completed for message in messages]
    assert completed == sorted(completed)
    assert completed[-1] == 30


async def test_WAT_001_fifty_watchers_on_both_replicas_see_the_same(shop: Shop, openai: OpenAIServer) -> None:
    await shop.stock(20)
    openai.behave(Behaviour(delay_seconds=0.5))
    run = (await shop.create(Run.PREVIEW_GENERATE, meta=RunMeta(sample_size=20))).run

    streams = await asyncio.gather(*(shop.watch(run.id, after=0, replica=number % 2) for number in range(50)))

    for messages in streams:
        assert_whole(messages, first=1)
    assert all(stream == streams[0] for stream in streams)


async def test_WAT_001_resumes_after_any_sequence(shop: Shop) -> None:
    await shop.stock(3)
    run = await shop.preview()
    history = await shop.watch(run.id, after=0)
    assert_whole(history, first=1)
    for after in range(run.sequence):
        assert await shop.watch(run.id, after=after, replica=after % 2) == history[after:]


async def test_WAT_001_a_watch_cut_off_anywhere_goes_on_where_it_was(shop: Shop, openai: OpenAIServer) -> None:
    await shop.stock(40)
    openai.behave(Behaviour(delay_seconds=0.2))
    run = (await shop.create(Run.PREVIEW_GENERATE, meta=RunMeta(sample_size=40))).run
    seen: list[pb.WatchRunResponse] = []
    while not seen or seen[-1].run.status not in TERMINAL:
        after = seen[-1].run.sequence if seen else 0
        request = pb.WatchRunRequest(project_id=shop.project, run_id=run.id, after_sequence=after)
        call = shop.runs(len(seen) % 2).WatchRun(request, **shop.auth())
        async for message in call:
            seen.append(message)
            break
        call.cancel()
    assert_whole(seen, first=1)


async def test_WAT_001_a_finished_run_is_a_snapshot_and_the_end(shop: Shop) -> None:
    run = await shop.preview()
    messages = await shop.watch(run.id, replica=1)
    assert [(message.kind, message.run) for message in messages] == [(SNAPSHOT, run)]
    assert await shop.watch(run.id, after=run.sequence) == []


async def test_WAT_001_an_unknown_run_and_a_foreign_one_are_not_found(shop: Shop, new_shop: Callable[[], Shop]) -> None:
    other = new_shop()
    run = await other.preview()
    for run_id in (str(uuid4()), run.id):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await shop.watch(run_id)
        assert (refusal(caught.value).code, refusal(caught.value).reason) == (
            grpc.StatusCode.NOT_FOUND,
            "RUN_NOT_FOUND",
        )


async def test_WAT_001_a_sequence_from_the_future_is_refused(shop: Shop) -> None:
    run = await shop.preview()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await shop.watch(run.id, after=run.sequence + 1)
    assert "after_sequence" in refusal(caught.value).fields


async def test_WAT_001_a_quiet_stream_has_heartbeats(lonely: Shop, openai: OpenAIServer) -> None:
    """Nothing happens for 15 s: the provider leaves the request unanswered, time and again, and is asked again."""
    await lonely.stock(1)
    openai.behave(Behaviour(status=429, retry_after="18", times=1))
    run = (await lonely.create(Run.PREVIEW_GENERATE)).run

    messages = await lonely.watch(run.id, timeout=60)

    beats = [index for index, message in enumerate(messages) if message.kind == HEARTBEAT]
    assert beats
    assert all(messages[index].run == messages[index - 1].run for index in beats)
    assert_whole(messages, first=messages[0].run.sequence)


async def test_WAT_001_a_client_that_goes_away_frees_the_server(shop: Shop, openai: OpenAIServer) -> None:
    """Its handler ends, and with it the subscription: the access log says when."""
    await shop.stock(1)
    openai.behave(Behaviour(delay_seconds=30))
    run = (await shop.create(Run.PREVIEW_GENERATE)).run
    request = pb.WatchRunRequest(project_id=shop.project, run_id=run.id)
    request_ids = {f"{run.id}-{number}" for number in range(20)}
    for request_id in request_ids:
        metadata = (*shop.auth()["metadata"], ("x-request-id", request_id))
        call = shop.runs().WatchRun(request, metadata=metadata)
        assert (await call.read()).kind == SNAPSHOT
        call.cancel()

    def freed() -> set[str]:
        return {line["request_id"] for line in log_lines(shop.stack.runs[0].log, "WatchRun CANCELLED", run.id)}

    await eventually(lambda: freed() == request_ids)
    await shop.cancel(run.id)
    assert (await shop.ended(run)).status == Run.CANCELLED


async def test_WAT_002_a_projects_watchers_on_both_replicas_see_every_run_begin_and_end(shop: Shop) -> None:
    """Whatever process created a run or took its events, and without the help of the poll's second."""
    await shop.stock(3)
    request = pb.WatchRunsRequest(project_id=shop.project)
    async with AsyncExitStack() as stack:
        calls = []
        for replica in (0, 1):
            call = shop.runs(replica).WatchRuns(request, metadata=shop.auth()["metadata"], timeout=60)
            stack.callback(call.cancel)
            assert (await call.read()).kind == pb.WatchRunsResponse.BOOKMARK
            calls.append(call)
        ended = []
        for number in range(4):  # one after the other: at once they would all ask for the same suggestions
            run = await shop.create(Run.PREVIEW_GENERATE, replica=number % 2, idempotency_key=f"k{number}")
            ended.append(await shop.ended(run.run))
        expected = {(run.id, sequence) for run in ended for sequence in range(1, run.sequence + 1)}
        for call in calls:
            seen = [await call.read() for _ in expected]
            assert {(message.run.id, message.run.sequence) for message in seen} == expected
            assert [message.run for message in seen if message.run.status in TERMINAL] != []
            assert {message.kind for message in seen} == {pb.WatchRunsResponse.UPDATED}
            for run in ended:
                changes = [message.run for message in seen if message.run.id == run.id]
                assert [change.sequence for change in changes] == list(range(1, run.sequence + 1))
                assert changes[-1] == run
        # What one replica sent is resumed at the other.
        request.after = seen[0].position
        resumed = shop.runs(0).WatchRuns(request, metadata=shop.auth()["metadata"], timeout=60)
        stack.callback(resumed.cancel)
        assert {((message := await resumed.read()).run.id, message.run.sequence) for _ in seen[1:]} == {
            (message.run.id, message.run.sequence) for message in seen[1:]
        }
