"""Scenario 7: one watcher that never reads, beside 49 that do. It delays no other watcher, costs the server
little, is cut off, and resumes without loss."""

import asyncio
import statistics
import time
from collections.abc import Callable
from typing import Any

import grpc
import psutil
import psycopg
import pytest
from playbooks.executor.v1.job_pb2 import RunEventBatch
from playbooks.runs.v1.run_pb2 import PlaybookRules, Run, RunMeta
from playbooks.runs.v1.runs_service_pb2 import WatchRunRequest, WatchRunResponse
from playbooks.runs.v1.runs_service_pb2_grpc import RunsServiceStub

from devstack.stack import Stack
from runs_service.delivery.event_applier import EVENTS_QUEUE
from runs_service.watching.stream import WRITE_TIMEOUT
from servicekit.broker import MessageSigner, Publisher
from servicekit.telemetry.metrics import Metrics
from tests.faults.sizes import FULL, size
from tests.support.audit import audit
from tests.support.openai_protocol import Behaviour
from tests.support.openai_server import OpenAIServer
from tests.support.runs import event
from tests.support.shop import Shop, log_lines, refusal
from tests.support.waiting import eventually

READERS = 49
ROUNDS = size(10, 1)  # with the slow one, and as many without
EVENTS = size(500, 300)  # a round: 5,000 beside the slow one, as the issue says
PACE = 40.0  # events a second
# Makes each message 2 kB, so that one second's worth fills what a client takes without reading.
RULES = PlaybookRules(forbidden_phrases=["x" * 200] * 10)

GROWTH = 20 * 1024 * 1024  # bytes
MOVES = 0.10  # of the others' p99

# Events are numbered, and one with a lower number than the last is passed over. The test's own come between the
# executor's first ones, that it has begun, and its last.
FIRST, LEAP = 1_000, 1_000_000
# A connection of its own, of which no stream takes more than HTTP/2's 64 kB ahead of its reader. On a fast network gRPC
# lets that grow to some 4 MB, and a watcher that does not read is noticed only after so much.
OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0))


class Reader:
    """A watcher that reads, and how long each change took to come."""

    def __init__(self, stub: RunsServiceStub, request: WatchRunRequest, metadata: Any) -> None:
        self._call = stub.WatchRun(request, metadata=metadata)
        self.position = request.after_sequence
        self.ended = False
        self.delays: list[float] = []  # seconds, of this round

    async def read(self) -> None:
        async for message in self._call:
            if message.kind == WatchRunResponse.HEARTBEAT:
                continue
            assert message.run.sequence == self.position + 1
            self.position = message.run.sequence
            self.delays.append(time.time() - message.run.updated_at.ToNanoseconds() / 1e9)
        self.ended = True


class Load:
    """Changes of one run, as an executor publishes them."""

    def __init__(self, stack: Stack, run: Run, readers: list[Reader]) -> None:
        assert stack.valkey is not None
        signer = MessageSigner([stack.secrets.jwt_secret])
        self._publisher = Publisher(stack.valkey.url, f"playbook-runs.{EVENTS_QUEUE}", Metrics(), signer)
        self._server = psutil.Process(stack.runs[0].pid)
        self._run = run
        self._readers = readers
        self.sequence = run.sequence
        self.memory = 0  # bytes the server had at most

    async def round(self, count: int) -> float:
        """Change the run so many times, at an even pace; return the p99 of the readers' delays in seconds."""
        for reader in self._readers:
            reader.delays.clear()
        began = time.monotonic()
        for step in range(count):
            await asyncio.sleep(began + step / PACE - time.monotonic())
            self.sequence += 1
            late = event(
                self._run.id,
                FIRST + self.sequence,
                Run.RUNNING,
                completed=self.sequence,
                project_id=self._run.project_id,
            )
            await self._publisher.publish(RunEventBatch(events=[late]).SerializeToString())
            self.memory = max(self.memory, self._server.memory_info().rss)
        await eventually(lambda: all(reader.position == self.sequence for reader in self._readers), timeout=60)
        delays = sorted(delay for reader in self._readers for delay in reader.delays)
        assert len(delays) == count * len(self._readers)
        return delays[int(0.99 * len(delays))]

    async def close(self) -> None:
        await self._publisher.close()


async def running(shop: Shop, openai: OpenAIServer) -> Run:
    """Return a run that an executor has begun and, as far as the executor knows, has published many events of."""
    openai.behave(Behaviour(delay_seconds=3600))
    await shop.stock(1)
    run = (await shop.create(Run.PREVIEW_GENERATE, meta=RunMeta(rules=RULES, deadline_seconds=3600))).run
    await openai.wait_for(lambda stats: stats.in_flight == 1, timeout_seconds=20)

    async def begun() -> bool:
        run.CopyFrom(await shop.get(run.id))
        return run.progress.total == 1  # it knows what it has to do, and reports nothing more until it is

    await eventually(begun, timeout=30)
    with psycopg.connect(shop.stack.postgres.url(database="playbook_runs")) as database:
        database.execute(
            "UPDATE executor.executions SET event_number = %(at)s, published_number = %(at)s", {"at": LEAP}
        )
    return run


async def take(call: Any, seen: list[int], *, until: int | None = None) -> None:
    """Add the sequences of a stream to `seen`, up to one of them or the stream's end, and close it."""
    try:
        async for message in call:
            if message.kind == WatchRunResponse.UPDATED:
                seen.append(message.run.sequence)
            if seen[-1:] == [until]:
                return
    finally:
        call.cancel()


async def cut_off(stack: Stack, times: int) -> None:
    """Return when the server has cut off so many watchers."""
    await eventually(lambda: len(log_lines(stack.runs[0].log, "it is cut off")) == times, timeout=30)


@pytest.mark.timeout(900)
@pytest.mark.alone
async def test_one_that_never_reads_slows_nobody(start_stack: Callable[..., Any], openai: OpenAIServer) -> None:
    shop: Shop = await start_stack(
        runs_env={"RUNS_RECONCILE_SECONDS": "3600"}, executor_env={"AI_TIMEOUT_SECONDS": "600"}
    )
    stack = shop.stack
    run = await running(shop, openai)
    metadata = shop.auth()["metadata"]
    request = WatchRunRequest(project_id=shop.project, run_id=run.id, after_sequence=run.sequence)
    readers = [Reader(shop.runs(), request, metadata) for _ in range(READERS)]
    load = Load(stack, run, readers)
    alone: list[float] = []
    beside: list[float] = []

    async def with_a_slow_one(stub: RunsServiceStub) -> None:
        first = load.sequence + 1
        request.after_sequence = load.sequence
        slow = stub.WatchRun(request, metadata=metadata)
        beside.append(await load.round(EVENTS))
        await cut_off(stack, len(beside))
        seen: list[int] = []
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await take(slow, seen)
        error = refusal(caught.value)
        assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "WATCHER_TOO_SLOW")
        assert 0 < len(seen) < EVENTS
        request.after_sequence = seen[-1]
        await take(stub.WatchRun(request, metadata=metadata), seen, until=load.sequence)
        assert seen == list(range(first, load.sequence + 1))

    async with grpc.aio.insecure_channel(stack.runs_target, options=OPTIONS) as own, asyncio.TaskGroup() as reading:
        for reader in readers:
            reading.create_task(reader.read())
        await load.round(EVENTS // 2)  # warms up
        alone.append(await load.round(EVENTS // 2))
        before, load.memory = load.memory, 0
        await with_a_slow_one(RunsServiceStub(own))
        for number in range(1, ROUNDS):  # in changing order, so that a machine that slows down does so for both
            if number % 2:
                await with_a_slow_one(RunsServiceStub(own))
            alone.append(await load.round(EVENTS))
            if not number % 2:
                await with_a_slow_one(RunsServiceStub(own))
        growth = load.memory - before
        await load.close()
        openai.reset()
        with openai.refusing_connections():  # drops the request under way; the executor asks again
            pass

    print(
        f"p99 of {READERS} readers: {milliseconds(alone)} ms alone, {milliseconds(beside)} ms beside one that does not "
        f"read; medians {statistics.median(alone) * 1000:.1f} and {statistics.median(beside) * 1000:.1f} ms; "
        f"the server grew by {growth / 1024 / 1024:.1f} MB"
    )
    assert all(reader.ended for reader in readers)
    assert {reader.position for reader in readers} == {(await shop.get(run.id)).sequence}
    assert growth < GROWTH
    assert statistics.median(beside) < limit(alone)
    assert await audit(stack) == 1


def limit(alone: list[float]) -> float:
    """Return what the p99 beside a slow watcher must stay under, given that of rounds without.

    10 %, and what such rounds differ by among themselves (the median of their distances from their median): on a quiet
    machine that is next to nothing. One round each shows only that nobody waits for the slow one, which would take
    seconds, however busy the machine is.
    """
    middle = statistics.median(alone)
    if not FULL:
        return max(3 * middle, WRITE_TIMEOUT / 2)
    return (1 + MOVES) * middle + statistics.median(abs(p99 - middle) for p99 in alone)


def milliseconds(values: list[float]) -> str:
    return ", ".join(f"{value * 1000:.1f}" for value in values)
