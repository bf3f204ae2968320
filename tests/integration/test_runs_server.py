"""The real runs-service process over gRPC: what surrounds every call, and how it starts and stops."""

import asyncio
import signal
import time
import urllib.request
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from uuid import uuid4

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from playbooks.executor.v1.job_pb2 import RunEventBatch
from playbooks.runs.v1.run_pb2 import PlaybookRules, Run, RunMeta
from playbooks.runs.v1.runs_service_pb2 import (
    ApplyPlaybookRequest,
    CancelRunRequest,
    CreateRunRequest,
    GetRunRequest,
    ListRunsRequest,
    PreviewPlaybookRequest,
    RetryRunRequest,
    WatchRunRequest,
)
from playbooks.runs.v1.runs_service_pb2_grpc import RunsServiceStub

from devstack.ports import HOST
from runs_client.client import RunsClient
from runs_client.errors import ServiceCallError
from runs_service.delivery.event_applier import EVENTS_QUEUE
from servicekit.broker import MessageSigner, Publisher
from servicekit.telemetry.metrics import Metrics
from tests.support.forking import Forks
from tests.support.runs import event, request
from tests.support.runs_process import UNKNOWN_RUN, Service, info_of, metadata, refused, serving
from tests.support.shop import log_lines
from tests.support.tokens import SECRET, hs256
from tests.support.waiting import eventually


@pytest.fixture(scope="session")
async def service(
    runs_forks: Forks, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Service]:
    service = Service(runs_forks, tmp_path_factory.mktemp("runs-service") / "log", environment)
    async with grpc.aio.insecure_channel(service.address) as channel:
        await eventually(lambda: serving(channel))
    yield service
    service.stop()


@pytest.fixture
async def channel(service: Service) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(service.address) as channel:
        yield channel


async def test_errors_say_what_why_and_where_under_the_callers_request_id(channel: grpc.aio.Channel) -> None:
    stub = RunsServiceStub(channel)
    more = {"x-request-id": "mine-1"}
    async with refused(grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND") as errors:
        await stub.GetRun(GetRunRequest(project_id="p", run_id=UNKNOWN_RUN), metadata=metadata(**more), timeout=20)
    assert dict(errors[0].trailing_metadata())["x-request-id"] == "mine-1"
    async with refused(grpc.StatusCode.INVALID_ARGUMENT, "VALIDATION_FAILED") as errors:
        await stub.GetRun(GetRunRequest(project_id="p", run_id="x"), metadata=metadata(), timeout=20)
    bad = error_details_pb2.BadRequest()
    assert rpc_status.from_call(errors[0]).details[1].Unpack(bad)
    assert [violation.field for violation in bad.field_violations] == ["run_id"]
    async with refused(grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MISSING"):
        await stub.GetRun(GetRunRequest(project_id="p", run_id=UNKNOWN_RUN), timeout=20)
    async with refused(grpc.StatusCode.PERMISSION_DENIED, "ROLE_TOO_LOW"):
        await stub.CreateRun(request(), metadata=metadata("VIEWER"), timeout=20)
    async with refused(grpc.StatusCode.PERMISSION_DENIED, "PROJECT_ACCESS_DENIED"):
        await stub.CreateRun(request(project_id="q"), metadata=metadata(), timeout=20)
    async with refused(grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MISSING"):
        async for _ in stub.WatchRun(WatchRunRequest(project_id="p", run_id=UNKNOWN_RUN), timeout=20):
            pass


async def test_a_request_id_comes_back_on_success_and_a_new_one_replaces_an_unfit_one(
    channel: grpc.aio.Channel, service: Service
) -> None:
    for given, kept in (("abc-1", True), ("x" * 129, False), ("a b;c", False)):
        call = RunsServiceStub(channel).CreateRun(request(), metadata=metadata(**{"x-request-id": given}), timeout=20)
        await call
        returned = dict(await call.trailing_metadata())["x-request-id"]
        assert (returned == given) is kept
        assert returned
    lines = [line for line in service.lines() if line.get("request_id") == "abc-1"]
    assert any("[AutomationPlaybookRunsService]" in line["message"] for line in lines)


@pytest.mark.parametrize("path", ["/playbooks.runs.v1.RunsService/Nothing", "/no.Service/At", "/x"])
async def test_an_unknown_method_is_an_error_like_all_others(path: str, channel: grpc.aio.Channel) -> None:
    async with refused(grpc.StatusCode.UNIMPLEMENTED, "METHOD_UNKNOWN") as errors:
        await channel.unary_unary(path)(b"anything", timeout=20)
    assert dict(errors[0].trailing_metadata())["x-request-id"]
    async with refused(grpc.StatusCode.UNIMPLEMENTED, "METHOD_UNKNOWN"):
        async for _ in channel.unary_stream(path)(b"", timeout=20):
            pass


async def test_health_and_reflection_are_open(channel: grpc.aio.Channel) -> None:
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    assert await serving(channel)
    asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(asked, timeout=20)
    answers = [answer async for answer in call]
    names = {service.name for service in answers[0].list_services_response.service}
    assert "playbooks.runs.v1.RunsService" in names


async def test_bytes_that_are_no_request_fail_validation(channel: grpc.aio.Channel) -> None:
    call = channel.unary_unary("/playbooks.runs.v1.RunsService/GetRun")
    for body in (b"\xff\xff\xff", b"\x0a\x02\xc3\x28"):  # no protobuf; a string that is no UTF-8
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, "VALIDATION_FAILED"):
            await call(body, metadata=metadata(), timeout=20)


async def test_calls_are_counted_by_method_and_code(channel: grpc.aio.Channel, service: Service) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await RunsServiceStub(channel).GetRun(
            GetRunRequest(project_id="p", run_id=UNKNOWN_RUN), metadata=metadata(), timeout=5
        )
    with pytest.raises(grpc.aio.AioRpcError):
        await channel.unary_unary("/made.up/Name")(b"", timeout=20)
    url = f"http://{HOST}:{service.metrics_port}/metrics"
    text = (await asyncio.to_thread(urllib.request.urlopen, url, timeout=20)).read().decode()
    assert 'grpc_server_calls_total{code="NOT_FOUND",method="/playbooks.runs.v1.RunsService/GetRun"}' in text
    assert "made.up" not in text
    assert 'broker_connected{link="consume playbook-runs.events"} 1.0' in text


async def test_a_watcher_that_goes_away_is_forgotten_and_the_run_stays_watchable(
    service: Service, channel: grpc.aio.Channel
) -> None:
    stub = RunsServiceStub(channel)
    run = (await stub.CreateRun(request(idempotency_key="w"), metadata=metadata(), timeout=20)).run
    request_ids = {f"{run.id}-{number}" for number in range(20)}
    for request_id in request_ids:
        named = (*metadata(), ("x-request-id", request_id))
        call = stub.WatchRun(WatchRunRequest(project_id="p", run_id=run.id), metadata=named, timeout=20)
        assert (await call.read()).run.id == run.id
        call.cancel()

    def forgotten() -> set[str]:
        return {line["request_id"] for line in log_lines(service.log, "WatchRun CANCELLED", run.id)}

    await eventually(lambda: forgotten() == request_ids)


async def test_a_watch_goes_on_with_a_new_token_when_its_own_expires(
    service: Service, channel: grpc.aio.Channel
) -> None:
    stub = RunsServiceStub(channel)
    run = (await stub.CreateRun(request(idempotency_key="long"), metadata=metadata(), timeout=20)).run
    given: list[str] = []

    def next_token() -> str:
        given.append(hs256(exp=int(time.time()) + (300 if given else 2)))
        return given[-1]

    async def changes() -> list[int]:
        async with RunsClient(service.address, token=next_token) as client:
            return [response.run.sequence async for response in client.watch("p", run.id)]

    watching = asyncio.create_task(changes())
    await eventually(lambda: len(given) >= 3)  # for the stream, for its end, for the next stream
    await stub.CancelRun(CancelRunRequest(project_id="p", run_id=run.id), metadata=metadata(), timeout=20)
    assert await asyncio.wait_for(watching, 20) == [1, 2]


async def test_a_repeated_call_gets_the_answer_of_the_first(channel: grpc.aio.Channel) -> None:
    stub = RunsServiceStub(channel)
    asked = request(playbook_id="missing_seo_description", request_id=str(uuid4()))
    first = await stub.CreateRun(asked, metadata=metadata(), timeout=20)
    cancelling = CancelRunRequest(project_id="p", run_id=first.run.id)
    cancelled = (await stub.CancelRun(cancelling, metadata=metadata(), timeout=20)).run
    again = await stub.CreateRun(asked, metadata=metadata(), timeout=20)
    assert (again.run, again.created) == (cancelled, True)
    asked.meta.sample_size = 9
    async with refused(grpc.StatusCode.ALREADY_EXISTS, "IDEMPOTENCY_KEY_REUSED") as errors:
        await stub.CreateRun(asked, metadata=metadata(), timeout=20)
    assert info_of(errors[0]).metadata["run_id"] == first.run.id
    assert errors[0].details().startswith("request_id belongs to a call with other values")


async def test_the_older_calls_have_request_ids_too(channel: grpc.aio.Channel) -> None:
    """A preview and an apply that have ended answer their repeats at once."""
    stub = RunsServiceStub(channel)
    common = {"project_id": "p", "playbook_id": "missing_seo_title"}
    preview = PreviewPlaybookRequest(**common, meta=RunMeta(sample_size=17), request_id=str(uuid4()))
    apply = ApplyPlaybookRequest(**common, scope_id="older", rules_hash="h", request_id=str(uuid4()))

    async def waited_for(run_type: Run.Type.ValueType) -> Run | None:
        wanted = ListRunsRequest(project_id="p", run_type=run_type, status=Run.QUEUED, limit=100)
        runs = (await stub.ListRuns(wanted, metadata=metadata(), timeout=20)).runs
        return next((run for run in runs if run.meta.sample_size == 17 or run.scope_id == "older"), None)

    for call, asked, run_type in (
        (stub.PreviewPlaybook, preview, Run.PREVIEW_GENERATE),
        (stub.ApplyPlaybook, apply, Run.APPLY),
    ):
        waiting = call(asked, metadata=metadata(), timeout=30)
        await eventually(partial(waited_for, run_type))
        run = await waited_for(run_type)
        assert run
        await stub.CancelRun(CancelRunRequest(project_id="p", run_id=run.id), metadata=metadata(), timeout=20)
        first = await waiting
        assert (first.run.id, first.run.status) == (run.id, Run.CANCELLED)
        assert await call(asked, metadata=metadata(), timeout=20) == first


async def test_a_run_can_be_named_in_capitals(channel: grpc.aio.Channel, environment: dict[str, str]) -> None:
    stub = RunsServiceStub(channel)
    run = (await stub.CreateRun(request(idempotency_key="capitals"), metadata=metadata(), timeout=20)).run
    watching = WatchRunRequest(project_id="p", run_id=run.id.upper())
    call = stub.WatchRun(watching, metadata=metadata(), timeout=10)
    assert (await call.read()).run.sequence == 1
    publisher = Publisher(
        environment["BROKER_URL"], f"playbook-runs.{EVENTS_QUEUE}", Metrics(), MessageSigner([SECRET])
    )
    await publisher.publish(RunEventBatch(events=[event(run.id, 1, Run.CANCELLED, attempt=0)]).SerializeToString())
    await publisher.close()
    assert (await call.read()).run.sequence == 2
    watching.after_sequence = 1
    again = stub.WatchRun(watching, metadata=metadata(), timeout=10)
    assert [message.run.sequence async for message in again] == [2]
    for answer in (
        await stub.GetRun(GetRunRequest(project_id="p", run_id=run.id.upper()), metadata=metadata(), timeout=20),
        await stub.CancelRun(CancelRunRequest(project_id="p", run_id=run.id.upper()), metadata=metadata(), timeout=20),
    ):
        assert (answer.run.id, answer.run.status) == (run.id, Run.CANCELLED)
    asked = RetryRunRequest(project_id="p", run_id=run.id.upper())
    assert (await stub.RetryRun(asked, metadata=metadata(), timeout=20)).run.retry_of == run.id


async def test_a_stop_ends_watchers_with_a_time_to_retry_and_exits_with_0(
    runs_forks: Forks, environment: dict[str, str], tmp_path: Path
) -> None:
    service = Service(runs_forks, tmp_path / "log", environment)
    try:
        async with grpc.aio.insecure_channel(service.address) as channel:
            await eventually(lambda: serving(channel))
            stub = RunsServiceStub(channel)
            run = (await stub.CreateRun(CreateRunRequest(
                project_id="p", playbook_id="missing_seo_title", run_type=Run.PREVIEW_GENERATE, idempotency_key="stop"
            ), metadata=metadata(), timeout=20)).run  # fmt: skip
            call = stub.WatchRun(WatchRunRequest(project_id="p", run_id=run.id), metadata=metadata(), timeout=30)
            assert (await call.read()).run.sequence == 1
            service.process.send_signal(signal.SIGTERM)
            async with refused(grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN") as errors:
                await call.read()
            assert ServiceCallError.from_call(errors[0]).retry_after
            assert await asyncio.to_thread(service.process.wait, 20) == 0
        assert "Traceback" not in service.log.read_text()
    finally:
        service.stop()


@pytest.mark.parametrize("variable", ["RUNS_LISTEN", "METRICS_LISTEN"])
async def test_a_taken_port_ends_the_start_with_a_line_that_names_it(
    runs_forks: Forks, variable: str, environment: dict[str, str], service: Service, tmp_path: Path
) -> None:
    second = Service(runs_forks, tmp_path / "log", environment | {variable: service.address})
    try:
        assert await asyncio.to_thread(second.process.wait, 20) == 1
        text = second.log.read_text()
        assert f"cannot listen on {service.address}" in text
        assert "Traceback" not in text
    finally:
        second.stop()


async def test_a_client_that_does_not_read_is_cut_off_and_resumes_where_it_was(
    service: Service, channel: grpc.aio.Channel, environment: dict[str, str]
) -> None:
    stub = RunsServiceStub(channel)
    rules = PlaybookRules(forbidden_phrases=["x" * 200] * 100)  # makes each message big
    wanted = request(idempotency_key="slow", meta=RunMeta(rules=rules))
    run = (await stub.CreateRun(wanted, metadata=metadata(), timeout=20)).run
    watching = WatchRunRequest(project_id="p", run_id=run.id)
    call = stub.WatchRun(watching, metadata=metadata(), timeout=60)
    assert (await call.read()).run.sequence == 1
    count = 400
    publisher = Publisher(
        environment["BROKER_URL"], f"playbook-runs.{EVENTS_QUEUE}", Metrics(), MessageSigner([SECRET])
    )
    for first in range(1, count, 100):
        events = [event(run.id, n, Run.RUNNING, completed=n) for n in range(first, first + 100)]
        await publisher.publish(RunEventBatch(events=events).SerializeToString())
    await publisher.publish(
        RunEventBatch(events=[event(run.id, count + 1, Run.SUCCEEDED, completed=100)]).SerializeToString()
    )
    await publisher.close()

    async def ended() -> bool:
        answer = await stub.GetRun(GetRunRequest(project_id="p", run_id=run.id), metadata=metadata(), timeout=20)
        return answer.run.status == Run.SUCCEEDED

    await eventually(ended)
    cut_off = f"a watcher of run {run.id} reads nothing"  # this is the fault: nothing is read until then
    await eventually(lambda: log_lines(service.log, cut_off))
    seen = [1]
    async with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "WATCHER_TOO_SLOW"):
        while True:
            seen.append((await call.read()).run.sequence)
    watching.after_sequence = seen[-1]
    resumed = stub.WatchRun(watching, metadata=metadata(), timeout=30)
    seen += [message.run.sequence async for message in resumed]
    assert seen == list(range(1, count + 3))
