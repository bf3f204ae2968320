"""A load of runs: created at a rate, asked for again as clients do, watched to their ends; and what was seen of it.

    requests = preview_requests(shop.project)
    async with Load(shop.stack, requests, watchers=100) as load:
        await load.create(rate=20, count=200)  # returns when all are acknowledged
        await load.all_ended()
    print(load.calls, load.acknowledged, load.ends, load.deliveries)

`create` keeps its pace whatever the answers are. A call that fails because a server or a store is away is made again
with the same idempotency key, on the next replica, after the delay that its RetryInfo names. Every attempt is in
`calls`. Watchers are `runs_client`'s, which resume, on another replica than the one that created their run.
"""

import asyncio
import itertools
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Self
from uuid import uuid4

import grpc
from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2 import CreateRunRequest, WatchRunResponse
from playbooks.runs.v1.runs_service_pb2_grpc import RunsServiceStub

from devstack.stack import Stack
from runs_client.client import RunsClient
from runs_client.errors import ServiceCallError
from runs_client.watch import is_terminal
from tests.support.shop import TITLES
from tests.support.waiting import eventually

DEADLINE = 20.0  # seconds of one call; one that takes longer counts as hanging
PATIENCE = 60.0  # seconds after which a run that nobody acknowledges fails the load
RETRY_AFTER = 0.2  # seconds, where a failure does not name its own delay
# Who comes back wants to find a restarted server soon.
OPTIONS = (("grpc.initial_reconnect_backoff_ms", 200), ("grpc.max_reconnect_backoff_ms", 1_000))
# What a server says that is away, and what a connection looks like that is cut in the middle of a call.
PASSING = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED}

Requests = Callable[[int], CreateRunRequest]  # what to ask for, by number; the load sets its idempotency key


@dataclass(frozen=True)
class Call:
    """One attempt at CreateRun."""

    key: str
    started: float  # time.monotonic()
    seconds: float
    code: grpc.StatusCode
    reason: str = ""  # the ErrorInfo's; "" when no service said anything
    retry_after: float | None = None  # seconds; None: without RetryInfo
    created: bool = False

    @property
    def answered(self) -> float:
        """When it was answered, by time.monotonic()."""
        return self.started + self.seconds


@dataclass(frozen=True)
class Delivery:
    """One change of a run as a watcher got it that was there before the change."""

    received: float  # time.monotonic()
    seconds: float  # since runs_service wrote it
    status: Run.Status.ValueType


class Load:
    """Creates runs on `stack` and watches each to its end.

    Takes what to ask for; how many `watchers` there are, and how many of them look at the same run; the addresses
    to create at, one channel each, and to watch at, both those of the stack's replicas if left out; `options` of the
    channels; whether a failed call is made again (`retries`); and what is called at each end.
    """

    def __init__(
        self,
        stack: Stack,
        requests: Requests,
        *,
        watchers: int = 1_000,
        watchers_a_run: int = 1,
        targets: Sequence[str] = (),
        watch_targets: Sequence[str] = (),
        options: Sequence[tuple[str, object]] = OPTIONS,
        retries: bool = True,
        on_end: Callable[[Run], None] = lambda run: None,
    ) -> None:
        self._requests = requests
        self._watchers = watchers
        self._watchers_a_run = watchers_a_run
        self._targets = list(targets) or [replica.target for replica in stack.runs]
        self._watch_targets = list(watch_targets) or [replica.target for replica in stack.runs]
        self._options = options
        self._retries = retries
        self._on_end = on_end
        self._token = stack.token("*", "OWNER", "load")
        self._name = f"load-{uuid4().hex[:8]}"  # two loads on one stack ask for different runs
        self._stopped = asyncio.Event()
        self._numbers = itertools.count()
        self._to_watch: asyncio.Queue[tuple[Run, int]] = asyncio.Queue()
        self.started = 0  # runs that were asked for
        self.calls: list[Call] = []
        self.acknowledged: dict[str, Run] = {}  # by key
        self.ends: dict[str, Run] = {}  # by run id
        self.ended_at: dict[str, float] = {}  # by run id: when its end was written, by time.monotonic()
        self.deliveries: list[Delivery] = []

    async def __aenter__(self) -> Self:
        self._cleanup = AsyncExitStack()
        channels = [grpc.aio.insecure_channel(target, options=self._options) for target in self._targets]
        for channel in channels:
            self._cleanup.push_async_callback(channel.close)
        self._stubs = [RunsServiceStub(channel) for channel in channels]
        clients = [
            await self._cleanup.enter_async_context(RunsClient(_first_of(self._watch_targets, n), token=self._token))
            for n in range(len(self._watch_targets))
        ]
        self._group = await asyncio.TaskGroup().__aenter__()
        self._tasks = [self._group.create_task(self._watch(clients)) for _ in range(self._watchers)]
        return self

    async def __aexit__(self, *error: object) -> None:
        for task in self._tasks:
            task.cancel()
        async with self._cleanup:
            await self._group.__aexit__(*error)  # type: ignore[arg-type]

    # Creating

    async def create(self, *, rate: float, count: int | None = None) -> None:
        """Ask for `count` runs, or until `stop`, `rate` a second; return when each is acknowledged."""
        async with asyncio.TaskGroup() as calls:
            began = time.monotonic()
            for number in itertools.count() if count is None else range(count):
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, began + number / rate - time.monotonic())):
                        await self._stopped.wait()
                if self._stopped.is_set():
                    return
                calls.create_task(self._acknowledged(next(self._numbers)))

    def stop(self) -> None:
        """Let `create` ask for nothing more."""
        self._stopped.set()

    async def reaches(self, acknowledged: int, *, timeout: float = PATIENCE) -> None:
        """Return when so many runs are acknowledged."""
        await eventually(lambda: len(self.acknowledged) >= acknowledged, timeout)

    async def _acknowledged(self, number: int) -> None:
        request = CreateRunRequest()
        request.CopyFrom(self._requests(number))
        request.idempotency_key = key = f"{self._name}-{number}"
        self.started += 1
        until = time.monotonic() + PATIENCE
        for attempt in itertools.count(number):
            run = await self._call(attempt % len(self._stubs), request)
            if run is not None:
                self.acknowledged[key] = run
                # Who would be late is of no use as one more watcher.
                watchers = self._watchers_a_run if self._to_watch.empty() else 1
                for other in range(1, watchers + 1):
                    self._to_watch.put_nowait((run, attempt + other))
                return
            assert self._retries, f"a call failed: {self.calls[-1]}"
            assert time.monotonic() < until, f"nobody acknowledges {key}: {self.calls[-1]}"
            await asyncio.sleep(self.calls[-1].retry_after or RETRY_AFTER)

    async def _call(self, replica: int, request: CreateRunRequest) -> Run | None:
        metadata = (("authorization", f"Bearer {self._token}"),)
        started = time.monotonic()
        try:
            answer = await self._stubs[replica].CreateRun(request, metadata=metadata, timeout=DEADLINE)
        except grpc.aio.AioRpcError as error:
            refused = ServiceCallError.from_call(error)
            seconds = time.monotonic() - started
            self.calls.append(
                Call(request.idempotency_key, started, seconds, error.code(), refused.reason, refused.retry_after)
            )
            if error.code() not in PASSING:
                raise
            return None
        seconds = time.monotonic() - started
        self.calls.append(Call(request.idempotency_key, started, seconds, grpc.StatusCode.OK, created=answer.created))
        return answer.run

    # Watching

    async def all_ended(self, *, timeout: float = PATIENCE) -> None:
        """Return when every acknowledged run's end has been seen."""
        await eventually(lambda: len(self.ends) == len(self.acknowledged), timeout)

    async def _watch(self, clients: Sequence[RunsClient]) -> None:
        while True:
            run, number = await self._to_watch.get()
            began = time.time()
            sequences: list[int] = []
            client = clients[number % len(clients)]
            async for response in client.watch(run.project_id, run.id, after_sequence=0):
                if response.kind != WatchRunResponse.HEARTBEAT:
                    sequences.append(response.run.sequence)
                    self._delivered(response.run, began)
            # Ordered, unique, reliable: what the history promises, over however many connections.
            assert sequences == list(range(1, len(sequences) + 1)), f"run {run.id} was delivered as {sequences}"

    def _delivered(self, run: Run, watching_since: float) -> None:
        now = time.monotonic()
        written = run.updated_at.ToNanoseconds() / 1e9
        age = time.time() - written
        if written > watching_since:
            self.deliveries.append(Delivery(now, age, run.status))
        if is_terminal(run) and run.id not in self.ends:
            self.ends[run.id] = run
            self.ended_at[run.id] = now - age  # not `now`: all watchers may have been busy with other runs
            self._on_end(run)

    # What was seen

    def ends_a_second(self, since: float, until: float, *, created_since: float = 0.0) -> float:
        """Return how many runs ended each second between two times of time.monotonic()."""
        old = {
            self.acknowledged[call.key].id
            for call in self.calls
            if call.code is grpc.StatusCode.OK and call.answered < created_since
        }
        return sum(since <= at < until and run_id not in old for run_id, at in self.ended_at.items()) / (until - since)

    def create_seconds(self, quantile: float, *, since: float = 0.0, until: float = math.inf) -> float:
        """Return a quantile of how long calls took that began between two times."""
        return percentile([call.seconds for call in self.calls if since <= call.started < until], quantile)

    def event_seconds(self, quantile: float, *, since: float = 0.0, until: float = math.inf) -> float:
        """Return a quantile of how long changes took to their watchers that were received between two times."""
        return percentile([d.seconds for d in self.deliveries if since <= d.received < until], quantile)


def preview_requests(project: str, playbook_id: str = TITLES) -> Requests:
    """Ask for previews of one project: the cheapest runs there are, once the suggestions are stored."""
    request = CreateRunRequest(project_id=project, playbook_id=playbook_id, run_type=Run.PREVIEW_GENERATE)
    return lambda _: request


def percentile(values: Sequence[float], quantile: float) -> float:
    """Return the smallest of `values` that so large a part of them does not exceed; nan of none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * quantile) - 1)] if ordered else math.nan


def _first_of(targets: Sequence[str], first: int) -> str:
    """Return a gRPC target that reaches the replica `first`, or the next one that answers."""
    first %= len(targets)
    rotated = [*targets[first:], *targets[:first]]
    return rotated[0] if len(rotated) == 1 else f"ipv4:{','.join(rotated)}"
