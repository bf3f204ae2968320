"""Event streams of the gateway before a real runs_service: resuming, refusals, and how they end."""

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus

import httpx2
import pytest
from playbooks.runs.v1.run_pb2 import Run
from prometheus_client import CollectorRegistry, Gauge
from starlette.types import Message

from devstack.ports import HOST
from devstack.postgres import Postgres
from devstack.valkey import Valkey
from gateway import app as gateway_app
from gateway.encoder import Encoder
from gateway.request import build
from gateway.routes import Routes
from gateway.settings import GatewaySettings
from gateway.streams import Streams
from gateway.upstream import Call, Upstream
from runs_service import app as runs_app
from runs_service.settings import RunsSettings
from runs_service.store import RunStore
from servicekit.postgres.database import Database
from tests.conftest import new_database
from tests.support.gateway import NOBODY, RUNS, TOKEN, gateway
from tests.support.http import Event, client, watching
from tests.support.prepared import RUNS_TEMPLATE
from tests.support.runs import NOW, event, new_run
from tests.support.tokens import SECRET
from tests.support.waiting import eventually

ROUTES = Routes(gateway_app.RUNS)


@dataclass
class Front:
    """A gateway before a runs_service, and the means to change runs."""

    url: str
    runs_target: str
    http: httpx2.AsyncClient
    database: Database
    store: RunStore
    changes: int = 0

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    async def create(self) -> Run:
        (stored,) = await self.store.runs.create([new_run(idempotency_key=str(self.changes))])
        self.changes += 1
        return stored.run

    async def change(self, run: Run, number: int, status: Run.Status.ValueType = Run.RUNNING) -> None:
        await self.store.history.apply_events([event(run.id, number, status, completed=number)], NOW)


@pytest.fixture(scope="module")
async def front(postgres_server: Postgres, valkey_server: Valkey) -> AsyncIterator[Front]:
    for database_url in new_database(postgres_server, template=RUNS_TEMPLATE):
        settings = RunsSettings(
            database_url=database_url,
            broker_url=valkey_server.url,
            broker_queue_prefix="test-gateway",
            listen=f"{HOST}:0",
            auth_jwt_secret=SECRET,
            executor_target=NOBODY,
        )
        database = Database(database_url, pool_size=2, application_name="test")
        async with (
            runs_app.serving(settings) as runs,
            gateway(runs_target=runs.address) as url,
            client(url, TOKEN) as http,
        ):
            yield Front(url, runs.address, http, database, RunStore(database, reconcile_after=timedelta(hours=1)))
        await database.close()


def watch(run: Run) -> str:
    return f"{RUNS}/{run.id}:watch"


def seen(events: list[Event]) -> list[tuple[str, str]]:
    return [(one.name, one.id) for one in events]


# Event streams


async def test_a_stream_has_each_change_once_and_ends_for_good(front: Front) -> None:
    run = await front.create()
    async with watching(front.http, watch(run)) as stream:
        assert stream.response.headers["content-type"] == "text/event-stream; charset=utf-8"
        first = await stream.next()
        assert first is not None
        assert (first.name, first.id, first.json["status"]) == ("snapshot", "1", "QUEUED")
        await front.change(run, 1)
        await front.change(run, 2, Run.SUCCEEDED)
        assert seen(await stream.rest()) == [("updated", "2"), ("updated", "3")]

    async with watching(front.http, watch(run), "1") as stream:
        events = await stream.rest()
    assert seen(events) == [("updated", "2"), ("updated", "3")]
    assert events[-1].json == (await front.http.get(f"{RUNS}/{run.id}")).json()
    assert (await front.http.get(watch(run), headers={"last-event-id": "3"})).status_code == HTTPStatus.NO_CONTENT


async def test_a_quiet_stream_is_open_at_once_and_has_heartbeats(front: Front) -> None:
    run = await front.create()
    async with watching(front.http, watch(run), "1") as stream:  # there is nothing to send
        assert stream.response.status_code == HTTPStatus.OK
        await front.change(run, 1)
        event = await stream.next()
        assert event is not None
        assert (event.name, event.id) == ("updated", "2")


async def test_a_refused_stream_is_a_problem(front: Front) -> None:
    unknown = f"{RUNS}/0198f0a0-0000-7000-8000-000000000000:watch"
    foreign = unknown.replace("/p/", "/q/")
    for path, headers, status, reason in (
        (unknown, {}, 404, "RUN_NOT_FOUND"),
        (f"{RUNS}/x:watch", {}, 400, "VALIDATION_FAILED"),
        (f"{unknown}?after=1", {}, 400, "VALIDATION_FAILED"),
        (unknown, {"last-event-id": "x"}, 400, "VALIDATION_FAILED"),
        (unknown, {"authorization": "Bearer x"}, 401, "TOKEN_INVALID"),
        (foreign, {}, 403, "PROJECT_ACCESS_DENIED"),
    ):
        answer = await front.http.get(path, headers=headers)
        assert (answer.status_code, answer.json()["reason"]) == (status, reason)
        assert answer.headers["content-type"] == "application/problem+json"
        assert ("www-authenticate" in answer.headers) == (status == HTTPStatus.UNAUTHORIZED)
    assert (await front.http.head(unknown)).status_code == HTTPStatus.METHOD_NOT_ALLOWED


async def test_a_stream_that_cannot_be_resumed_begins_anew(front: Front) -> None:
    run = await front.create()
    for number in range(1, 5):
        await front.change(run, number)
    await front.database.execute("DELETE FROM runs.run_events WHERE sequence < 4")

    async with watching(front.http, watch(run), "1") as stream:
        event = await stream.next()
    assert event is not None
    assert (event.name, event.id) == ("snapshot", "5")
    by_hand = await front.http.get(f"{watch(run)}?afterSequence=1")
    assert (by_hand.status_code, by_hand.json()["metadata"]) == (HTTPStatus.GONE, {"oldestSequence": "4"})


async def test_a_project_is_one_stream_that_resumes_by_position(front: Front) -> None:
    run = await front.create()
    path = f"{RUNS}:watch?runType=PREVIEW_GENERATE"
    async with watching(front.http, path) as stream:
        newest = await stream.next()
        assert newest is not None
        assert (newest.name, newest.json["id"], newest.json["status"]) == ("snapshot", run.id, "QUEUED")
        while (event := await stream.next()) is not None and event.name == "snapshot":
            pass
        assert event is not None
        assert (event.name, event.json) == ("bookmark", None)
        await front.change(run, 1)
        event = await stream.next()
        assert event is not None
        assert (event.name, event.json["id"], event.json["status"]) == ("updated", run.id, "RUNNING")

    await front.change(run, 2)
    async with watching(front.http, path, stream.last_id) as stream:
        event = await stream.next()
        assert event is not None
        assert (event.name, event.json["id"], event.json["progress"]["completed"]) == ("updated", run.id, 2)
    for last_id, query in (("x", path), (stream.last_id, f"{RUNS}:watch?runType=APPLY")):
        answer = await front.http.get(query, headers={"last-event-id": last_id})
        assert (answer.status_code, answer.json()["reason"]) == (HTTPStatus.BAD_REQUEST, "VALIDATION_FAILED")


async def test_when_the_client_leaves_the_call_ends_at_once(front: Front, caplog: pytest.LogCaptureFixture) -> None:
    run = await front.create()
    loop = asyncio.get_running_loop()
    taken = []
    for _ in range(5):  # the machine may be busy with other things: one of five shows that nothing is waited for
        caplog.clear()
        with caplog.at_level(logging.DEBUG, "servicekit.rpc.interceptors.access_log"):
            async with watching(front.http, watch(run)) as stream:
                await stream.next()
            left = loop.time()
            await eventually(lambda: any("WatchRun CANCELLED" in line for line in caplog.messages))
        taken.append(loop.time() - left)
    assert min(taken) < 0.1, taken


async def test_a_stream_that_is_left_cancels_its_call_and_not_by_chance(
    front: Front, caplog: pytest.LogCaptureFixture
) -> None:
    run = await front.create()
    upstream = Upstream("runs-service", front.runs_target, GatewaySettings())
    with caplog.at_level(logging.DEBUG, "servicekit.rpc.interceptors.access_log"):
        with upstream.stream(call_of(upstream, watch(run))) as stream:
            await stream.read()
        # `stream` is still referred to, as by a traceback: nothing but the cancel ends it.
        await eventually(lambda: any("WatchRun CANCELLED" in line for line in caplog.messages))
    assert stream.cancelled()
    await upstream.close()


def call_of(upstream: Upstream, path: str) -> Call:
    """Return the call that a GET of `path` makes."""
    route, values = ROUTES.find("GET", path)
    metadata = (("x-request-id", "r"), ("authorization", f"Bearer {TOKEN}"))
    return Call(route, upstream, build(route, values, b"", None), metadata)


async def test_a_client_that_does_not_read_is_cut_off_and_its_call_ends(
    front: Front, caplog: pytest.LogCaptureFixture
) -> None:
    run = await front.create()
    upstream = Upstream("runs-service", front.runs_target, GatewaySettings())
    is_cut_off = asyncio.Event()

    async def receive() -> Message:
        await is_cut_off.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body" and not is_cut_off.is_set():
            await asyncio.Event().wait()  # there is never room for it

    streams = Streams(Encoder(), Gauge("streams", "", registry=CollectorRegistry()), write=0.1)
    with caplog.at_level(logging.DEBUG, "servicekit.rpc.interceptors.access_log"):
        async with asyncio.timeout(20):
            await streams.serve(call_of(upstream, watch(run)), "", {"state": {"abort": is_cut_off.set}}, receive, send)
        assert is_cut_off.is_set()
        await eventually(lambda: any("WatchRun CANCELLED" in line for line in caplog.messages))
    await upstream.close()


async def test_a_stop_ends_streams_with_whole_chunks(front: Front, caplog: pytest.LogCaptureFixture) -> None:
    run = await front.create()
    loop = asyncio.get_running_loop()
    target = GatewaySettings(listen=f"{HOST}:0", runs_target=front.runs_target, executor_target=NOBODY)
    async with client("http://unused", TOKEN) as http:
        async with gateway_app.serving(target) as server:
            opened = watching(http, f"http://{server.address}{watch(run)}")
            stream = await opened.__aenter__()
            await stream.next()
            stopping = loop.time()
        assert await stream.rest() == []  # an incomplete chunk would raise
        await opened.__aexit__(None, None, None)
    assert loop.time() - stopping < gateway_app.GRACE  # which answers get that are no streams
    # The service warns of other tests' runs, which nobody executes, when this file takes long.
    said = [record for record in caplog.records if not record.name.startswith("runs_service.")]
    assert not [record for record in said if record.levelno >= logging.WARNING], caplog.text
