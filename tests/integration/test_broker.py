"""Publisher and Consumer over real brokers: Valkey always, RabbitMQ where one is at hand."""

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import kombu
import pytest
import redis

from devstack.valkey import Valkey
from servicekit.background.tasks import running
from servicekit.broker import BrokerUnavailable, Consumer, Publisher
from servicekit.broker.consumer import CONSUMER_BATCH
from servicekit.broker.link import CONNECT_TIMEOUT, PUBLISH_TIMEOUT
from servicekit.telemetry.metrics import Metrics
from tests.conftest import start_valkey
from tests.support.broker import SIGNER, Inbox, delete_queues
from tests.support.waiting import eventually

BOUND = CONNECT_TIMEOUT + 2 * PUBLISH_TIMEOUT


@pytest.fixture
async def link(url: str, queue: str) -> AsyncIterator[tuple[Publisher, Callable[[Inbox], Consumer]]]:
    metrics = Metrics()
    publisher = Publisher(url, queue, metrics, SIGNER)
    yield publisher, lambda inbox, **options: Consumer(url, queue, inbox.handle, metrics, SIGNER, **options)
    await publisher.close()


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    threads = [thread for thread in threading.enumerate() if thread.name.startswith(("publish-", "consume-"))]
    for thread in threads:
        thread.join(1)  # it may be on its last lines
    assert [thread.name for thread in threads if thread.is_alive()] == []


Link = tuple[Publisher, Callable[..., Consumer]]


async def test_what_is_published_arrives_byte_for_byte_in_order(link: Link) -> None:
    publisher, consumer = link
    inbox = Inbox()
    bodies = [b"", b"\0\xff\xfe", "é\n".encode(), b"x" * 300_000, *(str(n).encode() for n in range(150))]
    for body in bodies:
        await publisher.publish(body)
    async with running(consumer(inbox)):
        await eventually(lambda: len(inbox.bodies) == len(bodies))
    assert inbox.bodies == bodies
    assert all(len(batch) <= CONSUMER_BATCH for batch in inbox.batches)
    assert all(type(body) is bytes for body in inbox.bodies)


async def test_handled_messages_are_gone(link: Link) -> None:
    publisher, consumer = link
    first, second = Inbox(), Inbox()
    await publisher.publish(b"one")
    async with running(consumer(first)):
        await eventually(lambda: first.bodies == [b"one"])
    await publisher.publish(b"two")
    async with running(consumer(second)):
        await eventually(lambda: second.bodies == [b"two"])


async def test_messages_whose_handling_failed_come_again(link: Link) -> None:
    publisher, consumer = link
    inbox = Inbox()
    inbox.failures = 2
    await publisher.publish(b"stubborn")
    async with running(consumer(inbox)):
        await eventually(lambda: inbox.bodies == [b"stubborn"])
    assert inbox.entered == 3


async def test_messages_that_were_not_handled_before_a_stop_go_to_the_next_consumer(link: Link) -> None:
    publisher, consumer = link
    failing, after = Inbox(), Inbox()
    failing.failures = 1000
    for n in range(3):
        await publisher.publish(str(n).encode())
    async with running(consumer(failing)):
        await eventually(lambda: failing.entered >= 2)
    async with running(consumer(after)):
        await eventually(lambda: sorted(after.bodies) == [b"0", b"1", b"2"])


async def test_a_consumer_that_stops_finishes_what_it_is_handling(link: Link) -> None:
    publisher, consumer = link
    inbox = Inbox()
    inbox.open.clear()
    await publisher.publish(b"slow")
    worker = consumer(inbox)
    await worker.start()
    await eventually(lambda: inbox.entered)
    stopping = asyncio.gather(worker.stop(), worker.stop())
    await asyncio.sleep(0)
    assert not stopping.done()
    inbox.open.set()
    async with asyncio.timeout(20):
        await stopping
    assert inbox.bodies == [b"slow"]
    after = Inbox()
    await publisher.publish(b"next")
    async with running(consumer(after)):
        await eventually(lambda: after.bodies)
    assert after.bodies == [b"next"]  # the slow one was acknowledged


async def test_two_consumers_share_a_queue(link: Link) -> None:
    publisher, consumer = link
    inboxes = [Inbox(), Inbox()]
    async with running(*(consumer(inbox) for inbox in inboxes)):
        for n in range(50):
            await publisher.publish(str(n).encode())
        await eventually(lambda: sum(len(inbox.bodies) for inbox in inboxes) >= 50)
    assert sorted(int(body) for inbox in inboxes for body in inbox.bodies) == list(range(50))


async def test_publishing_from_many_tasks(link: Link) -> None:
    publisher, consumer = link
    inbox = Inbox()
    await asyncio.gather(*(publisher.publish(str(n).encode()) for n in range(60)))
    async with running(consumer(inbox)):
        await eventually(lambda: len(inbox.bodies) == 60)
    assert {int(body) for body in inbox.bodies} == set(range(60))


async def test_close_twice_and_while_publishing(link: Link) -> None:
    publisher, _ = link
    publishing = asyncio.gather(*(publisher.publish(b"x") for _ in range(5)), return_exceptions=True)
    await asyncio.sleep(0)
    await publisher.close()
    await publisher.close()
    assert all(result is None or isinstance(result, BrokerUnavailable) for result in await publishing)
    with pytest.raises(BrokerUnavailable):
        await publisher.publish(b"late")


async def test_a_connection_that_was_dropped_while_idle_fails_no_publish(link: Link) -> None:
    publisher, _ = link
    await publisher.publish(b"one")
    assert publisher._producer is not None
    for sock in _sockets(publisher._producer):
        sock.shutdown(2)
    await publisher.publish(b"two")


def _sockets(producer: kombu.Producer) -> list[object]:
    channel = producer.channel
    if hasattr(channel, "client"):  # Redis
        return [connection._sock for connection in channel.pool._available_connections if connection._sock]
    return [channel.connection.transport.sock]


# A broker of the test's own, which it may break.


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Valkey]:
    with start_valkey(tmp_path) as server:
        yield server


async def turns_during(work: Awaitable[object]) -> int:
    """Await `work`; return how often the event loop turned to something else meanwhile, each hundredth of a second."""
    turns = 0
    task = asyncio.ensure_future(work)
    while not task.done():
        await asyncio.sleep(0.01)
        turns += 1
    await asyncio.gather(task, return_exceptions=True)
    return turns


async def test_a_killed_broker_is_noticed_within_the_bound_and_both_ends_come_back(own: Valkey) -> None:
    metrics = Metrics()
    publisher = Publisher(own.url, "q", metrics, SIGNER)
    inbox = Inbox()
    loop = asyncio.get_running_loop()
    async with running(Consumer(own.url, "q", inbox.handle, metrics, SIGNER)):
        await publisher.publish(b"before")
        await eventually(lambda: inbox.bodies == [b"before"])
        own.kill()
        for _ in range(2):
            started = loop.time()
            with pytest.raises(BrokerUnavailable):
                await publisher.publish(b"lost")
            assert loop.time() - started < BOUND + 0.5
        await eventually(lambda: gauge(metrics) == {"consume q": 0, "publish q": 0})
        own.start()
        own.wait_ready()

        async def published() -> bool:
            try:
                await publisher.publish(b"after")
            except BrokerUnavailable:
                return False
            return True

        await eventually(published)
        await eventually(lambda: b"after" in inbox.bodies)
        assert gauge(metrics) == {"consume q": 1, "publish q": 1}
    await publisher.close()


def gauge(metrics: Metrics) -> dict[str, float]:
    (family,) = metrics.broker_connected.collect()
    return {sample.labels["link"]: sample.value for sample in family.samples}


async def test_messages_arrive_after_the_broker_forgot_everything(own: Valkey) -> None:
    publisher = Publisher(own.url, "q", Metrics(), SIGNER)
    inbox = Inbox()
    async with running(Consumer(own.url, "q", inbox.handle, Metrics(), SIGNER)):
        await publisher.publish(b"before")
        await eventually(lambda: inbox.bodies == [b"before"])
        with redis.Redis.from_url(own.url) as client:
            client.flushall()
        await publisher.publish(b"after")
        await eventually(lambda: inbox.bodies == [b"before", b"after"])
    await publisher.close()


async def test_messages_arrive_after_their_queue_was_deleted(link: Link, url: str, queue: str) -> None:
    publisher, consumer = link
    inbox = Inbox()
    async with running(consumer(inbox, renewal=0.5)):
        for body in (b"before", b"after", b"again"):
            await publisher.publish(body)  # declares the queue anew, before its consumer has noticed that it was gone
            await eventually(lambda body=body: inbox.bodies[-1:] == [body])  # type: ignore[misc]
            await asyncio.to_thread(delete_queues, url, queue)
    assert inbox.bodies == [b"before", b"after", b"again"]


async def test_a_frozen_broker_holds_up_neither_publishers_nor_the_loop(own: Valkey) -> None:
    publisher = Publisher(own.url, "q", Metrics(), SIGNER)
    await publisher.publish(b"before")
    own.send_signal(signal.SIGSTOP)
    try:
        loop = asyncio.get_running_loop()
        started = loop.time()
        results = asyncio.gather(*(publisher.publish(b"x") for _ in range(3)), return_exceptions=True)
        turns = await turns_during(results)
        assert loop.time() - started < 3 * BOUND
        assert all(isinstance(result, BrokerUnavailable) for result in results.result())
        assert turns > 20  # a publish on the loop would leave it a turn for each connection and message
    finally:
        own.send_signal(signal.SIGCONT)
    await publisher.publish(b"after")
    await publisher.close()


async def test_a_consumer_stops_soon_while_the_broker_is_away(own: Valkey) -> None:
    own.stop()
    consumer = Consumer(own.url, "q", Inbox().handle, Metrics(), SIGNER)
    await consumer.start()
    await eventually(lambda: any(thread.name == "consume-q" for thread in threading.enumerate()))
    async with asyncio.timeout(20):
        await consumer.stop()
        await consumer.stop()


class BrokenOnce(list[float]):
    """Delays whose first look-up raises: nothing in the consumer's thread catches that."""

    def __getitem__(self, place: Any) -> Any:
        if len(self) > 1:
            del self[0]
            raise KeyError("odd, after a failure")
        return super().__getitem__(place)


async def test_a_consumer_whose_thread_breaks_off_begins_again(own: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    inbox = Inbox()
    own.kill()
    consumer = Consumer(own.url, "q", inbox.handle, Metrics(), SIGNER, reconnect_delays=BrokenOnce([0.05, 0.05]))
    async with running(consumer):
        await eventually(lambda: any("broke off" in record.message for record in caplog.records))
        own.start()
        own.wait_ready()
        publisher = Publisher(own.url, "q", Metrics(), SIGNER)
        await publisher.publish(b"one")
        await publisher.close()
        await eventually(lambda: inbox.bodies == [b"one"])
    (record_of_break,) = [record for record in caplog.records if "broke off" in record.message]
    assert "odd, after a failure" in caplog.text
    assert record_of_break.levelname == "WARNING"


async def test_a_second_outage_is_logged_like_the_first(own: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    consumer = Consumer(own.url, "q", Inbox().handle, Metrics(), SIGNER)

    def warnings() -> int:
        return sum(record.levelname == "ERROR" for record in caplog.records if "gives nothing from q" in record.message)

    caplog.set_level("INFO")
    async with running(consumer):
        for outage in (1, 2):
            await eventually(lambda n=outage: sum(r.message == "consuming q" for r in caplog.records) == n)
            await eventually(lambda: consumer._failures == 0)  # it was up for a while
            own.kill()
            await eventually(lambda n=outage: warnings() == n)
            own.start()
            own.wait_ready()


async def test_a_url_that_cannot_be_parsed_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        Consumer("redis://127.0.0.1:6379x/0", "q", Inbox().handle, Metrics(), SIGNER)
