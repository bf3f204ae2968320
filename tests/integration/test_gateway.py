"""The gateway before a real runs_service: what strangers send, event streams, and how it stops."""

import asyncio
import json
import logging
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any

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
from tests.support.certificates import Authority
from tests.support.http import Event, client, watching
from tests.support.prepared import RUNS_TEMPLATE
from tests.support.runs import NOW, event, new_run
from tests.support.tokens import SECRET, hs256
from tests.support.waiting import eventually

RUNS = "/api/projects/p/automation-playbooks/runs"
NOBODY = f"{HOST}:1"
TOKEN = hs256()
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


@asynccontextmanager
async def gateway(**settings: Any) -> AsyncIterator[str]:
    """Run a gateway; its URL."""
    defaults = {"listen": f"{HOST}:0", "runs_target": NOBODY, "executor_target": NOBODY}
    async with gateway_app.serving(GatewaySettings(**(defaults | settings))) as server:
        yield f"{server.scheme}://{server.address}"


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


async def test_when_the_client_leaves_the_call_ends_within_100_ms(
    front: Front, caplog: pytest.LogCaptureFixture
) -> None:
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


async def test_a_stream_is_cancelled_by_whoever_leaves_it_and_not_by_chance(
    front: Front, caplog: pytest.LogCaptureFixture
) -> None:
    run = await front.create()
    upstream = Upstream("runs-service", front.runs_target, GatewaySettings())
    with caplog.at_level(logging.DEBUG, "servicekit.rpc.interceptors.access_log"):
        with upstream.stream(call_of(upstream, watch(run))) as stream:
            await stream.read()
        # `stream` is still referred to, as by a traceback: nothing but the cancel ends it.
        await eventually(lambda: any("WatchRun CANCELLED" in line for line in caplog.messages), timeout=2)
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
        async with asyncio.timeout(5):
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
    assert loop.time() - stopping < 2.0
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING], caplog.text


# What strangers send


async def test_a_service_that_is_not_there_is_a_503_that_says_nothing_of_the_inside() -> None:
    async with gateway() as url, client(url, TOKEN) as http:
        answers = [await http.get(RUNS), await http.get(f"{RUNS}/{'0' * 8}:watch"), await http.get("/readyz")]
        assert (await http.get("/healthz")).json() == {"status": "alive"}
    assert [answer.status_code for answer in answers] == [503] * 3
    assert all(answer.headers["retry-after"] == "1" for answer in answers)
    assert not any(port in answer.text for answer in answers for port in (":1", "127.0.0.1"))
    assert answers[2].json()["metadata"] == {"runs-service": "UNREACHABLE", "executor-service": "UNREACHABLE"}


@pytest.fixture(scope="module")
async def alone() -> AsyncIterator[str]:
    """The URL of a gateway without services."""
    async with gateway(gateway_cors_origins="https://shop.example") as url:
        yield url


async def test_every_answer_is_strict_with_browsers(alone: str) -> None:
    async with client(alone) as http:
        for path in ("/", "/healthz", "/openapi.json", RUNS):
            headers = (await http.get(path, headers={"x-request-id": "mine"})).headers
            assert headers["x-request-id"] == "mine"
            assert headers["x-content-type-options"] == "nosniff"
            assert "default-src 'none'" in headers["content-security-policy"]
            assert "server" not in headers
        assert len((await http.get("/healthz", headers={"x-request-id": "a b"})).headers["x-request-id"]) == 32


async def test_pages_of_other_origins_may_not_call_unless_configured(alone: str) -> None:
    preflight = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    async with client(alone) as http:
        known = await http.options(RUNS, headers={"origin": "https://shop.example", **preflight})
        assert known.headers["access-control-allow-origin"] == "https://shop.example"
        assert "access-control-allow-credentials" not in known.headers
        unknown = await http.options(RUNS, headers={"origin": "https://evil.example", **preflight})
        assert "access-control-allow-origin" not in unknown.headers
        assert unknown.status_code == HTTPStatus.BAD_REQUEST
        # A POST without a body needs no preflight.
        for origin, status in (
            ("https://evil.example", 403),
            ("null", 403),
            ("https://shop.example", 503),
            (alone, 503),
        ):
            answer = await http.post(f"{RUNS}/r:cancel", headers={"origin": origin})
            assert answer.status_code == status, origin
        refused = await http.get(RUNS, headers={"origin": "https://shop.example"})
        assert refused.headers["access-control-allow-origin"] == "https://shop.example"  # or a page could not read it
        assert "retry-after" in refused.headers["access-control-expose-headers"]


async def test_large_bodies_are_refused_before_they_are_read(alone: str) -> None:
    head = b"POST %b/r:cancel HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n" % RUNS.encode()
    told = await raw(alone, head + b"content-length: 104857600\r\n\r\n")
    assert told.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in told
    chunk = b"10000\r\n" + b" " * 65_536 + b"\r\n"
    unsaid = await raw(alone, head + b"transfer-encoding: chunked\r\n\r\n" + chunk * 9)
    assert unsaid.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    "sent",
    [b"", b"\r\n", b"GET / HT", b"GET / HTTP/1.1\r\nhost: x\r\n", b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n\r\nGET"],
)
async def test_headers_that_do_not_come_end_the_connection(sent: bytes) -> None:
    async with gateway(max_receive_seconds=0.2) as url, asyncio.timeout(5):
        reader, writer = await asyncio.open_connection(HOST, int(url.rpartition(":")[2]))
        writer.write(sent)
        told = await reader.read()
        writer.close()
    assert b"HTTP/1.1 408 " in told
    assert (b"HTTP/1.1 200 " in told) == (b"healthz" in sent)


async def test_a_body_that_does_not_come_ends_the_request() -> None:
    async with gateway(max_receive_seconds=0.2) as url:
        head = b"POST %b/r:cancel HTTP/1.1\r\nhost: x\r\n" % RUNS.encode()
        assert (await raw(url, head + b"content-length: 5\r\n\r\n{}")).startswith(b"HTTP/1.1 408 ")


async def test_connections_have_a_limit() -> None:
    async with gateway(max_connections=2) as url, client(url) as http, asyncio.timeout(5):
        await http.get("/healthz")
        held = [await asyncio.open_connection(HOST, int(url.rpartition(":")[2])) for _ in range(2)]
        told = await held[1][0].read()
        assert told.startswith(b"HTTP/1.1 503 ")
        assert (await http.get("/healthz")).status_code == HTTPStatus.OK
        for _, writer in held:
            writer.close()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HTTP/1.1\r\nhost: x\r\nx: %b\r\n\r\n" % (b"x" * 70_000), b"431"),
        (b"GET /%b HTTP/1.1\r\nhost: x\r\n\r\n" % (b"x" * 70_000), b"431"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),
        (b"GET / HTTP/9.9\r\n\r\n", b"400"),
        (b"GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", b"400"),
    ],
)
async def test_what_is_no_request_is_refused_without_a_line_in_the_log(
    alone: str, sent: bytes, status: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await raw(alone, sent)
    assert answer.startswith(b"HTTP/1.1 " + status), answer
    assert b'"statusCode":' + status in answer
    assert not [record for record in caplog.records if record.levelno >= logging.INFO], caplog.text


async def raw(url: str, sent: bytes) -> bytes:
    """Send bytes on a connection, and return what comes until its end or the end of an answer."""
    reader, writer = await asyncio.open_connection(HOST, int(url.rpartition(":")[2]))
    writer.write(sent)
    try:
        async with asyncio.timeout(10):
            head = await reader.readuntil(b"\r\n\r\n")
            return head + await reader.read(65_536)
    finally:
        writer.close()


async def test_tokens_come_in_one_header_and_never_reach_the_log(alone: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        async with client(alone) as http:
            headers = {"authorization": f"Bearer {TOKEN}"}
            await http.get(f"{RUNS}?token={TOKEN}")
            await http.get(RUNS, headers=headers)
            await http.get(f"/{TOKEN}", headers=headers)
            twice = await http.get(RUNS, headers=[("authorization", "Bearer a"), ("authorization", "Bearer b")])
            odd = await http.get(RUNS, headers={"authorization": b"Bearer \xff"})
    assert (twice.status_code, odd.status_code) == (401, 401)
    ours = [record for record in caplog.records if not record.name.startswith("http")]  # not the client's own lines
    assert TOKEN not in "\n".join(json.dumps(vars(record), default=str) for record in ours)
    assert {"gateway.edge"} <= {record.name for record in ours}


async def test_a_taken_port_is_said_with_its_variable() -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        where = f"{HOST}:{taken.getsockname()[1]}"
        with pytest.raises(SystemExit, match=f"cannot listen on {where} .GATEWAY_LISTEN.: is the port taken"):
            async with gateway(listen=where):
                pass


async def test_https_with_and_without_certificates_of_clients(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    certificate, key = authority.issue("gateway")
    trusting = ssl.create_default_context(cafile=authority.file)
    async with (
        gateway(tls_cert_file=certificate, tls_key_file=key) as url,
        client(url, verify=trusting) as http,
    ):
        answer = await http.get("/healthz")
        assert answer.headers["strict-transport-security"].startswith("max-age=")
    assert url.startswith("https://")
    async with gateway(tls_cert_file=certificate, tls_key_file=key, tls_client_ca_file=authority.file) as url:
        async with client(url, verify=trusting) as http:
            with pytest.raises(httpx2.TransportError):
                await http.get("/healthz")
        trusting.load_cert_chain(*authority.issue("client"))
        async with client(url, verify=trusting) as http:
            assert (await http.get("/healthz")).status_code == HTTPStatus.OK


async def test_a_certificate_that_is_replaced_is_served_without_a_restart(tmp_path: Path) -> None:
    first, second = Authority(tmp_path / "first"), Authority(tmp_path / "second")
    certificate, key = first.issue("gateway")
    async with gateway(tls_cert_file=certificate, tls_key_file=key) as url:

        async def is_trusted_by(authority: Authority) -> bool:
            async with client(url, verify=ssl.create_default_context(cafile=authority.file)) as http:
                try:
                    return (await http.get("/healthz")).status_code == HTTPStatus.OK
                except httpx2.TransportError:
                    return False

        assert await is_trusted_by(first)
        for file, other in zip((certificate, key), second.issue("gateway"), strict=True):
            other.replace(file)
        await eventually(lambda: is_trusted_by(second))
        assert not await is_trusted_by(first)


async def test_routes_may_be_at_the_root_too() -> None:
    async with gateway(gateway_routes_at_root=True) as url, client(url, TOKEN) as http:
        assert (await http.get(RUNS.removeprefix("/api"))).status_code == HTTPStatus.SERVICE_UNAVAILABLE
