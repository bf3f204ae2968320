"""WatchRuns as a call: a watcher that is too slow, a token that expires, and how both go on."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import grpc
import pytest
from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2 import WatchRunsRequest, WatchRunsResponse
from playbooks.runs.v1.runs_service_pb2_grpc import RunsServiceStub

from devstack.ports import HOST
from devstack.postgres import Postgres
from devstack.valkey import Valkey
from runs_client.client import RunsClient
from runs_client.errors import ServiceCallError
from runs_service import app
from runs_service.settings import RunsSettings
from runs_service.store import RunStore
from servicekit.postgres.database import Database
from tests.conftest import new_database
from tests.support.prepared import RUNS_TEMPLATE
from tests.support.runs import event, large_rules, new_run
from tests.support.shop import refusal
from tests.support.tokens import SECRET, hs256
from tests.support.waiting import eventually

SNAPSHOT, UPDATED, BOOKMARK = WatchRunsResponse.SNAPSHOT, WatchRunsResponse.UPDATED, WatchRunsResponse.BOOKMARK
TIMEOUT = 20  # seconds; what is not ended by the server fails
# A connection of its own, of which no stream takes more than HTTP/2's 64 kB ahead of its reader.
NARROW = (("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0))


@dataclass
class Server:
    """A runs_service with a project of the test's own, and the means to change runs."""

    target: str
    database: Database

    def __post_init__(self) -> None:
        self.project = f"p-{uuid4().hex[:8]}"
        self.store = RunStore(self.database, reconcile_after=timedelta(hours=1))

    async def create(self, count: int, **fields: object) -> list[Run]:
        fields = {"project_id": self.project, **fields}
        wanted = [new_run(datetime.now(UTC), idempotency_key=str(uuid4()), **fields) for _ in range(count)]
        return [stored.run for stored in await self.store.runs.create(wanted)]

    async def change(self, run: Run, number: int) -> None:
        changed = event(run.id, number, Run.RUNNING, completed=number, project_id=self.project)
        await self.store.history.apply_events([changed], datetime.now(UTC))

    def token(self, lifetime: float) -> str:
        return hs256(exp=time.time() + lifetime, projects={self.project: "VIEWER"})

    def watch(self, channel: grpc.aio.Channel, token: str, after: str = "") -> "grpc.aio.UnaryStreamCall":  # type: ignore[type-arg]
        return RunsServiceStub(channel).WatchRuns(
            WatchRunsRequest(project_id=self.project, after=after),
            metadata=(("authorization", f"Bearer {token}"),),
            timeout=TIMEOUT,
        )


@pytest.fixture(scope="module")
async def running(postgres_server: Postgres, valkey_server: Valkey) -> AsyncIterator[tuple[str, Database]]:
    for database_url in new_database(postgres_server, template=RUNS_TEMPLATE):
        settings = RunsSettings(
            database_url=database_url,
            broker_url=valkey_server.url,
            broker_queue_prefix="test-watch-runs",
            listen=f"{HOST}:0",
            auth_jwt_secret=SECRET,
            executor_target=f"{HOST}:1",
        )
        database = Database(database_url, pool_size=2, application_name="test")
        async with app.serving(settings) as runs:
            yield runs.address, database
        await database.close()


@pytest.fixture
def server(running: tuple[str, Database]) -> Server:
    return Server(*running)


async def read_into(got: list[WatchRunsResponse], call: "grpc.aio.UnaryStreamCall") -> None:  # type: ignore[type-arg]
    while (message := await call.read()) is not grpc.aio.EOF:
        got.append(message)


async def test_a_watcher_that_does_not_read_is_cut_off_and_goes_on_after_what_it_has(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    runs = await server.create(20, meta={"rules": large_rules()})  # 90 kB each: more than gRPC takes unread
    got: list[WatchRunsResponse] = []
    async with grpc.aio.insecure_channel(server.target, options=NARROW) as channel:
        slow = server.watch(channel, server.token(300))
        got.append(await slow.read())
        await server.change(runs[0], 1)
        await eventually(lambda: "does not read; ending its stream" in caplog.text, timeout=TIMEOUT)
        with pytest.raises(grpc.aio.AioRpcError) as cut:  # gRPC sends the status behind the messages
            await read_into(got, slow)
        assert (refusal(cut.value).code, refusal(cut.value).reason) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "WATCHER_TOO_SLOW",
        )
        assert len(got) < len(runs)

        resumed = server.watch(channel, server.token(300), after=got[-1].position)
        while (run := got[-1].run).id != runs[0].id or run.sequence < 2:
            got.append(await resumed.read())
        resumed.cancel()
    assert [message.run.id for message in got if message.kind == SNAPSHOT] == [run.id for run in reversed(runs)]
    assert [message.run.sequence for message in got if message.kind == UPDATED] == [2]


async def test_a_stream_ends_with_its_token(server: Server) -> None:
    await server.create(1)
    async with grpc.aio.insecure_channel(server.target) as channel:
        call = server.watch(channel, server.token(1.5))
        assert [(await call.read()).kind for _ in "ab"] == [SNAPSHOT, BOOKMARK]
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await call.read()
    assert (refusal(ended.value).code, refusal(ended.value).reason) == (
        grpc.StatusCode.UNAUTHENTICATED,
        "TOKEN_EXPIRED",
    )


async def test_the_client_goes_on_with_the_next_token_and_misses_nothing(server: Server) -> None:
    (run,) = await server.create(1)
    tokens: list[str] = []
    expires: list[float] = []

    def next_token() -> str:
        """Return the same one until it has expired."""
        if not tokens or time.time() > expires[-1]:
            expires.append(time.time() + 1.5)
            tokens.append(server.token(1.5))
        return tokens[-1]

    seen: list[tuple[int, int]] = []
    number = 0
    async with RunsClient(server.target, token=next_token) as client, asyncio.timeout(TIMEOUT):
        stream: AsyncGenerator[WatchRunsResponse, None] = client.watch_all(server.project)
        async for message in stream:
            if message.kind != BOOKMARK:
                seen.append((message.kind, message.run.sequence))
            if len(tokens) > 2:
                break
            number += 1
            await server.change(run, number)  # while the stream is open, and while it is not
        await stream.aclose()
    assert seen == [(SNAPSHOT, 1), *((UPDATED, sequence) for sequence in range(2, len(seen) + 1))]


async def test_a_client_whose_token_stays_the_same_gets_token_expired(server: Server) -> None:
    token = server.token(1.0)
    async with RunsClient(server.target, token=token) as client, asyncio.timeout(TIMEOUT):
        with pytest.raises(ServiceCallError) as ended:
            async for _ in client.watch_all(server.project):
                pass
    assert ended.value.reason == "TOKEN_EXPIRED"
