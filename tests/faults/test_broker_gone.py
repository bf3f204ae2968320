"""Scenario 4: the broker is gone in the middle of a load, in every way a broker can be. Nothing is lost, callers
hardly notice, and work flows again by itself."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import grpc
import kombu
import pytest
import redis
from playbooks.runs.v1.run_pb2 import Run

from devstack.stack import Stack, StackOptions
from devstack.valkey import Valkey
from servicekit.broker.consumer import CONSUMER_BATCH
from tests.conftest import start_valkey
from tests.faults.sizes import FULL, overbooked, size
from tests.support import breaking
from tests.support.audit import audit
from tests.support.broker import delete_queues
from tests.support.load import Load, preview_requests
from tests.support.proxy import Proxy
from tests.support.shop import Shop, open_shop
from tests.support.waiting import eventually

RUNS = size(1_000, 160)
RATE = 20  # runs a second
OUTAGE = size(10, 4)  # seconds; longer than any call to a broker may take
# Both times sizes.overbooked() on a machine that has other things to do.
ANSWERS_WITHIN = 1.5  # seconds, at this quantile; of the few calls of the bounded size the 99th would be the slowest
SLOWEST = 0.99 if FULL else 0.95
FLOWS_WITHIN = 10.0  # seconds after the broker's return
# Messages that the two consumers had in hand when their broker was lost: the broker keeps them for a minute.
HELD = 2 * CONSUMER_BATCH


@dataclass
class Broker:
    """A broker, reached through a proxy at `url`."""

    url: str
    direct_url: str
    proxy: Proxy
    prefix: str
    process: Valkey | None = None  # None: RabbitMQ, which others use too

    @property
    def queues(self) -> list[str]:
        return [f"{self.prefix}.{name}" for name in ("jobs", "events")]

    def waiting(self) -> int:
        """Return how many messages are in RabbitMQ's queues; into Valkey the audit looks."""
        if self.process:
            return 0
        with kombu.Connection(self.direct_url, connect_timeout=2) as connection:
            channel = connection.channel()
            declared = [channel.queue_declare(queue, passive=True) for queue in self.queues]
            return sum(answer.message_count for answer in declared)


Fault = Callable[[Broker], AbstractAsyncContextManager[None]]


@contextlib.asynccontextmanager
async def stopped(broker: Broker) -> AsyncIterator[None]:
    assert broker.process
    broker.process.kill()
    try:
        yield
    finally:
        await breaking.start(broker.process)


@contextlib.asynccontextmanager
async def port_closed(broker: Broker) -> AsyncIterator[None]:
    with broker.proxy.refusing():
        yield


@contextlib.asynccontextmanager
async def frozen(broker: Broker) -> AsyncIterator[None]:
    if broker.process is None:
        with broker.proxy.silent():
            yield
    else:
        with breaking.frozen(broker.process):
            yield


@contextlib.asynccontextmanager
async def flushed(broker: Broker) -> AsyncIterator[None]:
    """It forgets everything twice: what it held at first, and what came in since."""
    forget(broker)
    yield
    forget(broker)


def forget(broker: Broker) -> None:
    if broker.process is None:
        delete_queues(broker.direct_url, *broker.queues)
        return
    with redis.Redis.from_url(broker.direct_url) as connection:
        connection.flushall()


@contextlib.asynccontextmanager
async def valkey(folder: Path) -> AsyncIterator[Broker]:
    with start_valkey(folder) as process:
        async with Proxy(f"127.0.0.1:{process.port}") as proxy:
            url = process.url.replace(f"127.0.0.1:{process.port}", proxy.target)
            yield Broker(url, process.url, proxy, "playbook-runs", process)


@contextlib.asynccontextmanager
async def rabbitmq(url: str) -> AsyncIterator[Broker]:
    with kombu.Connection(url) as connection:
        address = f"{connection.info()['hostname']}:{connection.info()['port']}"
    async with Proxy(address) as proxy:
        broker = Broker(url.replace(address, proxy.target), url, proxy, f"test-{uuid4().hex[:12]}")
        assert broker.url != url
        yield broker
        delete_queues(url, *broker.queues, *(f"{queue}.dead" for queue in broker.queues))


@contextlib.asynccontextmanager
async def stack_over(broker: Broker, folder: Path, env: dict[str, str], **options: object) -> AsyncIterator[Stack]:
    env = env | {"BROKER_URL": broker.url, "BROKER_QUEUE_PREFIX": broker.prefix}
    replicas = {"runs_replicas": size(2, 1), "executor_replicas": size(2, 1)} | options
    stack = Stack(StackOptions(data_dir=folder, durable=False, broker=False, env=env, **replicas))  # type: ignore[arg-type]
    stack.start()
    stack.valkey = broker.process  # the audit looks into it
    try:
        yield stack
    finally:
        await asyncio.to_thread(stack.stop)  # the proxy, on this thread, is needed for it


@pytest.fixture(scope="module")
async def over_valkey(
    tmp_path_factory: pytest.TempPathFactory, stack_folder: Callable[[], Path], stack_env: dict[str, str]
) -> AsyncIterator[tuple[Broker, Stack]]:
    async with (
        valkey(tmp_path_factory.mktemp("valkey")) as broker,
        stack_over(broker, stack_folder(), stack_env) as stack,
    ):
        yield broker, stack


@pytest.fixture(scope="module")
async def over_rabbitmq(
    stack_folder: Callable[[], Path], stack_env: dict[str, str], amqp_url: str
) -> AsyncIterator[tuple[Broker, Stack]]:
    async with (
        rabbitmq(amqp_url) as broker,
        stack_over(broker, stack_folder(), stack_env) as stack,
    ):
        yield broker, stack


@pytest.fixture(scope="module")
async def with_fallback(
    tmp_path_factory: pytest.TempPathFactory, stack_folder: Callable[[], Path], stack_env: dict[str, str]
) -> AsyncIterator[tuple[Broker, Stack]]:
    env = stack_env | {"RUNS_INLINE_FALLBACK": "true"}
    async with (
        valkey(tmp_path_factory.mktemp("valkey")) as broker,
        stack_over(broker, stack_folder(), env) as stack,
    ):
        yield broker, stack


@contextlib.asynccontextmanager
async def a_shop(stack: Stack) -> AsyncIterator[Shop]:
    async with open_shop(stack) as shop:
        await shop.stock(3)
        await shop.preview()  # the suggestions are there: what follows is about runs, not about AI
        yield shop


# Without FAULTS=full: a broker that says nothing and one that forgets, which are the hardest to notice.
@pytest.mark.parametrize("fault", [stopped, port_closed, frozen, flushed] if FULL else [frozen, flushed])
async def test_nothing_is_lost_while_valkey_is(fault: Fault, over_valkey: tuple[Broker, Stack]) -> None:
    await outage(fault, *over_valkey)


@pytest.mark.parametrize("fault", [port_closed, frozen, flushed] if FULL else [frozen])
async def test_nothing_is_lost_while_rabbitmq_is(fault: Fault, over_rabbitmq: tuple[Broker, Stack]) -> None:
    await outage(fault, *over_rabbitmq)


async def outage(fault: Fault, broker: Broker, stack: Stack) -> None:
    processes = [service.pid for service in (*stack.runs, *stack.executors)]
    async with a_shop(stack) as shop:
        others = await audit(stack, unacknowledged=HELD)
        async with Load(stack, preview_requests(shop.project)) as load, asyncio.TaskGroup() as group:
            began = time.monotonic()
            creating = group.create_task(load.create(rate=RATE, count=RUNS))
            await load.reaches(RUNS // 3)
            async with fault(broker):
                gone = time.monotonic()
                await asyncio.sleep(OUTAGE)
            back = time.monotonic()
            await creating
            await load.all_ended(timeout=120)
    report(fault, load, gone, back)
    speed = load.ends_a_second(began, gone)
    behind = sum(ended > back for ended in load.ended_at.values())
    first = min(ended for ended in load.ended_at.values() if ended > back)
    assert {call.code for call in load.calls} == {grpc.StatusCode.OK}
    assert load.create_seconds(SLOWEST, since=gone, until=back) < ANSWERS_WITHIN * overbooked()
    assert len(load.acknowledged) == len(load.ends) == RUNS
    assert {run.status for run in load.ends.values()} == {Run.SUCCEEDED}
    assert first - back < FLOWS_WITHIN * overbooked()
    # What lay around is worked on as well, as fast as runs were before, and nobody had to be restarted for that.
    assert max(load.ended_at.values()) - back < FLOWS_WITHIN * overbooked() + behind / speed
    assert [service.pid for service in (*stack.runs, *stack.executors) if service.alive] == processes
    assert await audit(stack, unacknowledged=HELD) == others + RUNS
    await eventually(lambda: broker.waiting() == 0)


@pytest.mark.parametrize("fault", [stopped, port_closed, frozen] if FULL else [frozen])
async def test_with_the_fallback_runs_execute_while_valkey_is(
    fault: Fault, with_fallback: tuple[Broker, Stack]
) -> None:
    broker, stack = with_fallback
    async with a_shop(stack) as shop:
        others = await audit(stack, unacknowledged=HELD)
        async with Load(stack, preview_requests(shop.project)) as load, asyncio.TaskGroup() as group:
            creating = group.create_task(load.create(rate=RATE, count=RUNS))
            await load.reaches(RUNS // 3)
            async with fault(broker):
                gone = time.monotonic()
                await asyncio.sleep(OUTAGE)
                last = time.monotonic()
                # Every run that was created since has ended before the broker comes back.
                await eventually(
                    lambda: all(
                        load.acknowledged[call.key].id in load.ends for call in load.calls if gone < call.started < last
                    ),
                    timeout=30,
                )
            back = time.monotonic()
            await creating
            await load.all_ended(timeout=120)
    report(fault, load, gone, back)
    meanwhile = [call for call in load.calls if gone < call.started < last]
    assert len(meanwhile) > RATE
    assert {call.code for call in load.calls} == {grpc.StatusCode.OK}
    assert load.create_seconds(SLOWEST, since=gone, until=back) < ANSWERS_WITHIN * overbooked()
    assert {run.status for run in load.ends.values()} == {Run.SUCCEEDED}
    assert len(load.ends) == RUNS
    assert await audit(stack, unacknowledged=HELD) == others + RUNS


async def test_services_stop_in_order_while_valkey_is_frozen(over_valkey: tuple[Broker, Stack]) -> None:
    await stopping(*over_valkey)


async def test_services_stop_in_order_while_rabbitmq_is_frozen(over_rabbitmq: tuple[Broker, Stack]) -> None:
    await stopping(*over_rabbitmq)


async def stopping(broker: Broker, stack: Stack) -> None:
    services = [stack.runs[0], stack.executors[0]]
    async with frozen(broker):
        assert await asyncio.gather(*map(breaking.stop, services)) == [0, 0]
    for service in services:
        await breaking.start(service)


def report(fault: Fault, load: Load, gone: float, back: float) -> None:
    older = {load.acknowledged[call.key].id for call in load.calls if call.answered < back}
    ends = sorted(ended for ended in load.ended_at.values() if ended > back)
    last = max(ended for run_id, ended in load.ended_at.items() if run_id in older)
    print(
        f"\n{fault.__name__}: {len(load.calls)} calls; while it was gone CreateRun took"
        f" p50 {load.create_seconds(0.5, since=gone, until=back) * 1000:.0f} ms,"
        f" p{SLOWEST * 100:.0f} {load.create_seconds(SLOWEST, since=gone, until=back) * 1000:.0f} ms;"
        f" {sum(gone < ended <= back for ended in load.ended_at.values())} ends meanwhile;"
        f" after its return the first end came after {ends[0] - back:.2f} s, that of the last older run"
        f" after {max(0.0, last - back):.2f} s"
    )
