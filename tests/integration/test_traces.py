"""One trace of a run through real processes: the parent of each span, as a collector receives it."""

import json
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import redis
from playbooks.runs.v1 import runs_service_pb2 as pb
from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2_grpc import RunsServiceStub

from devstack.services import Service
from devstack.stack import Stack
from tests.support.collector import Collector, Span
from tests.support.forking import Forks
from tests.support.http import watching
from tests.support.openai_server import Behaviour, OpenAIServer
from tests.support.service import ServiceProcess
from tests.support.shop import TITLES, Shop, open_shop
from tests.support.waiting import eventually

CREATE, WATCH, EXECUTE = (
    "playbooks.runs.v1.RunsService/CreateRun",
    "playbooks.runs.v1.RunsService/WatchRun",
    "playbooks.executor.v1.ExecutorService/ExecuteRun",
)
ATTEMPT, CHAT = "execute PREVIEW_GENERATE", "chat test-model"
OF_A_RUN = (CREATE, "claim", ATTEMPT, CHAT, "write effect", "apply event")


class Caller:
    """Who calls, with a place in a trace of its own."""

    def __init__(self, flags: str = "01") -> None:
        self.trace_id, self.span_id = secrets.token_hex(16), secrets.token_hex(8)
        self.header = f"00-{self.trace_id}-{self.span_id}-{flags}"

    def auth(self, shop: Shop) -> dict[str, Any]:
        given = shop.auth()
        return {**given, "metadata": (*given["metadata"], ("traceparent", self.header))}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def openai() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


@pytest.fixture(scope="module")
def stack(new_stack: Callable[..., Stack], openai: OpenAIServer, collector: Collector) -> Iterator[Stack]:
    env = {
        **openai.environment,
        "LOG_FORMAT": "json",
        "RUNS_RECONCILE_SECONDS": "0.5",
        "EXECUTOR_LEASE_SECONDS": "0.5",
        **collector.environment,
        # What a caller does not ask for is not recorded.
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0",
    }
    with new_stack(http=True, env=env) as stack:
        yield stack


@pytest.fixture
async def shop(stack: Stack) -> AsyncIterator[Shop]:
    async with open_shop(stack) as shop:
        await shop.stock(2)
        yield shop


async def created(shop: Shop, caller: Caller, stub: RunsServiceStub | None = None) -> Run:
    request = pb.CreateRunRequest(project_id=shop.project, playbook_id=TITLES, run_type=Run.PREVIEW_GENERATE)
    return (await (stub or shop.runs()).CreateRun(request, **caller.auth(shop))).run


async def ended(shop: Shop, run: Run) -> Run:
    async def is_ended() -> bool:
        return await status(shop, run) >= Run.SUCCEEDED

    await eventually(is_ended, 30)
    return (await shop.runs().GetRun(pb.GetRunRequest(project_id=shop.project, run_id=run.id), **shop.auth())).run


async def status(shop: Shop, run: Run) -> int:
    request = pb.GetRunRequest(project_id=shop.project, run_id=run.id)
    return (await shop.runs().GetRun(request, **shop.auth())).run.status


def assert_one_trace(caller: Caller, spans: dict[str, Span], *, parent_id: str = "") -> None:
    """Check who is whose child from the caller to the event."""
    create, attempt = spans[CREATE], spans[ATTEMPT]
    assert {span.trace_id for span in spans.values()} == {caller.trace_id}
    assert create.parent_id == (parent_id or caller.span_id)
    assert (create.kind, create.service) == ("SERVER", "runs-service")
    assert spans["claim"].parent_id == attempt.parent_id == create.span_id
    assert (attempt.kind, attempt.service) == ("CONSUMER", "executor-service")
    assert spans[CHAT].parent_id == spans["write effect"].parent_id == attempt.span_id
    assert spans["apply event"].service == "runs-service"


async def test_a_run_is_one_trace_from_its_caller_to_its_watcher(shop: Shop, collector: Collector) -> None:
    caller = Caller()
    run = await created(shop, caller)
    assert run.trace_id == caller.trace_id
    watch = shop.runs().WatchRun(pb.WatchRunRequest(project_id=shop.project, run_id=run.id), **caller.auth(shop))
    try:
        async for message in watch:
            last = message.run
    finally:
        watch.cancel()
    assert (last.status, last.trace_id) == (Run.SUCCEEDED, caller.trace_id)

    spans = await collector.named(run.id, *OF_A_RUN, "send job", "send event", WATCH)
    assert_one_trace(caller, spans)
    assert spans["send job"].parent_id == spans[CREATE].span_id
    assert spans["send event"].parent_id == spans["apply event"].parent_id == spans[ATTEMPT].span_id
    assert (spans[WATCH].parent_id, spans[WATCH].links) == (caller.span_id, ())
    chat = spans[CHAT]
    assert chat.kind == "CLIENT"
    assert chat.attributes["gen_ai.request.model"] == "test-model"
    assert chat.attributes["gen_ai.usage.input_tokens"] > 0
    assert "Thing" not in str(collector.of_run(run.id))  # no product text

    for service in (*shop.stack.runs, *shop.stack.executors):
        lines = [json.loads(line) for line in service.log.read_text().splitlines() if run.id in line]
        assert lines
        assert {(line["trace_id"], line["run_id"], line["project_id"]) for line in lines} == {
            (caller.trace_id, run.id, shop.project)
        }


async def test_a_run_over_http_is_a_child_of_the_request(shop: Shop, collector: Collector) -> None:
    caller = Caller()
    async with shop.http() as http:
        body = {"runType": "PREVIEW_GENERATE"}
        answer = await http.post(f"{TITLES}/runs", json=body, headers={"traceparent": caller.header})
        run_id = answer.raise_for_status().json()["id"]
        assert answer.json()["traceId"] == caller.trace_id
        async with watching(http, f"runs/{run_id}:watch", headers={"traceparent": caller.header}) as stream:
            await stream.rest()
    post = "POST /api/projects/{project_id}/automation-playbooks/{playbook_id}/runs"
    get = "GET /api/projects/{project_id}/automation-playbooks/runs/{run_id}:watch"
    spans = await collector.named(run_id, *OF_A_RUN, post, get, WATCH)
    assert_one_trace(caller, spans, parent_id=spans[post].span_id)
    assert (spans[post].service, spans[post].parent_id) == ("runs-gateway", caller.span_id)
    assert spans[WATCH].parent_id == spans[get].span_id


async def test_an_inline_run_is_one_trace(
    shop: Shop, stack: Stack, collector: Collector, runs_forks: Forks, tmp_path: Path
) -> None:
    caller = Caller()
    inline = {**stack.runs[0].env, "ENABLE_QUEUE_PROCESSORS": "false"}
    del inline["RUNS_LISTEN"]
    with ServiceProcess(runs_forks, "runs", tmp_path / "log", inline) as service:
        async with grpc.aio.insecure_channel(service.target) as channel:
            run = await created(shop, caller, RunsServiceStub(channel))
            assert run.status == Run.SUCCEEDED
            spans = await collector.named(run.id, *OF_A_RUN, EXECUTE)
    assert_one_trace(caller, spans)
    assert spans[EXECUTE].parent_id == spans[CREATE].span_id
    assert "send job" not in spans


async def test_a_watch_in_another_trace_links_to_the_run(
    shop: Shop, stack: Stack, collector: Collector, runs_forks: Forks, tmp_path: Path
) -> None:
    caller, watcher = Caller(), Caller()
    run = await ended(shop, await created(shop, caller))
    request = pb.WatchRunRequest(project_id=shop.project, run_id=run.id)
    create = (await collector.named(run.id, CREATE))[CREATE]
    to_the_run = ((caller.trace_id, create.span_id),)

    async def watch(stub: RunsServiceStub, auth: dict[str, Any]) -> None:
        async for message in stub.WatchRun(request, **auth):
            assert message.run.trace_id == caller.trace_id

    await watch(shop.runs(), watcher.auth(shop))
    span = (await collector.named(run.id, WATCH, trace_id=watcher.trace_id))[WATCH]
    assert (span.parent_id, span.links) == (watcher.span_id, to_the_run)

    def unasked() -> list[Span]:
        known = (caller.trace_id, watcher.trace_id)
        return [span for span in collector.of_run(run.id) if span.name == WATCH and span.trace_id not in known]

    recording = {**stack.runs[0].env, "OTEL_TRACES_SAMPLER": "parentbased_always_on", "OTEL_TRACES_SAMPLER_ARG": "1"}
    del recording["RUNS_LISTEN"]
    with ServiceProcess(runs_forks, "runs", tmp_path / "log", recording) as service:
        async with grpc.aio.insecure_channel(service.target) as channel:
            await watch(RunsServiceStub(channel), shop.auth())  # by a caller without a trace
            await eventually(unasked)
    assert [(span.parent_id, span.links) for span in unasked()] == [("", to_the_run)]


async def test_a_run_that_a_sweep_sends_keeps_its_trace(shop: Shop, stack: Stack, collector: Collector) -> None:
    caller = Caller()
    assert stack.valkey
    stack.valkey.kill()
    run = await created(shop, caller)
    assert run.status == Run.QUEUED
    await eventually(lambda: "not published" in stack.runs[0].log.read_text() or None, 20)
    stack.valkey.start()
    assert (await ended(shop, run)).status == Run.SUCCEEDED
    spans = await collector.named(run.id, *OF_A_RUN, "send job")
    assert_one_trace(caller, spans)


async def test_an_event_that_reconciliation_brings_is_applied_in_the_trace_of_its_run(
    shop: Shop, stack: Stack, collector: Collector, openai: OpenAIServer
) -> None:
    caller = Caller()
    openai.behave(Behaviour(delay_seconds=3, times=1))
    run = await created(shop, caller)
    await openai.wait_for(lambda stats: stats.in_flight > 0)
    create = (await collector.named(run.id, CREATE))[CREATE]
    service = stack.runs[0]
    service.kill()

    def of_the_end(name: str) -> list[Span]:
        named = [span for span in collector.of_run(run.id) if span.name == name]
        return [span for span in named if span.attributes["playbook.run.status"] == "SUCCEEDED"]

    await eventually(lambda: of_the_end("send event"))
    assert stack.valkey
    with redis.Redis.from_url(stack.valkey.url) as broker:
        broker.flushall()  # nobody has received it
    service.start()
    request = pb.GetRunRequest(project_id=shop.project, run_id=run.id)
    await shop.runs().GetRun(request, wait_for_ready=True, **shop.auth())
    assert (await ended(shop, run)).status == Run.SUCCEEDED
    await eventually(lambda: of_the_end("apply event"))
    (applied,) = of_the_end("apply event")
    # By the run's row: a message of the broker would have named the attempt.
    assert (applied.trace_id, applied.parent_id, applied.links) == (caller.trace_id, create.span_id, ())


async def test_a_later_attempt_is_a_trace_of_its_own_with_a_link(
    shop: Shop, stack: Stack, collector: Collector, openai: OpenAIServer
) -> None:
    caller = Caller()
    openai.behave(Behaviour(delay_seconds=30, times=1))
    run = await created(shop, caller)
    await openai.wait_for(lambda stats: stats.in_flight > 0)
    executor: Service = stack.executors[0]
    executor.kill()
    openai.reset()
    executor.start()
    run = await ended(shop, run)
    assert (run.status, run.attempt, run.trace_id) == (Run.SUCCEEDED, 2, caller.trace_id)

    first = await collector.named(run.id, CREATE, trace_id=caller.trace_id)
    second = (await collector.named(run.id, ATTEMPT))[ATTEMPT]
    later = await collector.named(run.id, ATTEMPT, CHAT, "write effect", "apply event", trace_id=second.trace_id)
    assert second.trace_id != caller.trace_id
    assert (second.parent_id, second.links) == ("", ((caller.trace_id, first[CREATE].span_id),))
    assert later[CHAT].parent_id == later["write effect"].parent_id == second.span_id
    assert second.attributes["playbook.run.attempt"] == 2


@pytest.mark.parametrize("header", ["", "x" * 9000, "00-" + "0" * 32 + "-" + "1" * 16 + "-01", "unsampled"])
async def test_other_callers_are_not_recorded(header: str, shop: Shop, collector: Collector) -> None:
    unrecorded, recorded = Caller("00"), Caller()
    if header != "unsampled":
        unrecorded.header = header
    run = await ended(shop, await created(shop, unrecorded))
    assert run.status == Run.SUCCEEDED
    assert run.trace_id == ""
    sentinel = await ended(shop, await created(shop, recorded))  # whose spans are sent after any of the first
    await collector.named(sentinel.id, CREATE, ATTEMPT, "apply event")
    assert collector.of_run(run.id) == []
