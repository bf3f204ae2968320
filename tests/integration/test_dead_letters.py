"""Messages that nobody can read, and those of a newer version: kept where people and newer processes find them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from uuid import uuid4

import kombu
import pytest
from playbooks.executor.v1.job_pb2 import RunEventBatch
from playbooks.runs.v1.run_pb2 import Run

from runs_service.delivery.event_applier import EventApplier
from runs_service.store import RunStore
from servicekit.background.tasks import running
from servicekit.broker import REASON_HEADER, VERSION_HEADER, Consumer, Publisher
from servicekit.broker.consumer import ATTEMPTS
from servicekit.clock import SystemClock
from servicekit.postgres.database import Database
from servicekit.telemetry.metrics import Metrics
from tests.support.broker import SIGNER, Inbox, delete_queues, publish_raw, take_all
from tests.support.runs import event, new_run
from tests.support.waiting import eventually

NewConsumer = Callable[..., Consumer]
AT_ONCE = (0.01,)  # seconds between attempts


@pytest.fixture
async def publisher(url: str, queue: str) -> AsyncIterator[Publisher]:
    publisher = Publisher(url, queue, Metrics(), SIGNER)
    yield publisher
    await publisher.close()


@pytest.fixture
def consumer(url: str, queue: str) -> NewConsumer:
    return lambda inbox, **options: Consumer(url, queue, inbox.handle, Metrics(), SIGNER, **options)


async def test_an_unreadable_message_is_dead_lettered_with_the_reason_and_others_are_handled(
    url: str, queue: str, publisher: Publisher, consumer: NewConsumer, caplog: pytest.LogCaptureFixture
) -> None:
    inbox = Inbox()
    inbox.unreadable = {b"\xff\xfe": "no message at all", b"": "x" * 10_000}
    for body in (b"one", b"\xff\xfe", b"two", b"", b"three"):
        await publisher.publish(body)
    async with running(consumer(inbox)):
        await eventually(lambda: inbox.bodies == [b"one", b"two", b"three"])
    kept = take_all(url, f"{queue}.dead")
    assert [(body, headers[REASON_HEADER]) for body, headers in kept] == [
        (b"\xff\xfe", "no message at all"),
        (b"", "x" * 500),
    ]
    assert take_all(url, queue) == []
    assert sum("no message at all" in record.message for record in caplog.records) == 1


async def test_a_message_on_which_handling_breaks_is_put_aside_alone(
    url: str, queue: str, publisher: Publisher, consumer: NewConsumer
) -> None:
    inbox = Inbox()
    inbox.poison = {b"3", b"7"}
    for n in range(10):
        await publisher.publish(str(n).encode())
    async with running(consumer(inbox)):
        await eventually(lambda: len(set(inbox.bodies)) == 8)
        await publisher.publish(b"later")
        await eventually(lambda: b"later" in inbox.bodies)
    kept = take_all(url, f"{queue}.dead")
    assert sorted(body for body, _ in kept) == [b"3", b"7"]
    assert all("1 on purpose" in str(headers[REASON_HEADER]) for _, headers in kept)


async def test_an_outage_puts_nothing_aside(url: str, queue: str, publisher: Publisher, consumer: NewConsumer) -> None:
    inbox = Inbox()
    inbox.failures = 20
    await publisher.publish(b"patient")
    async with running(consumer(inbox, reconnect_delays=AT_ONCE)):
        await eventually(lambda: inbox.bodies == [b"patient"])
    assert take_all(url, f"{queue}.dead") == []


async def test_an_accident_after_an_outage_puts_nothing_aside(
    url: str, queue: str, publisher: Publisher, consumer: NewConsumer
) -> None:
    inbox = Inbox()
    inbox.failures, inbox.accidents = 20, ATTEMPTS - 1
    await publisher.publish(b"unlucky")
    async with running(consumer(inbox, reconnect_delays=AT_ONCE)):
        await eventually(lambda: inbox.bodies == [b"unlucky"])
    assert take_all(url, f"{queue}.dead") == []


async def test_a_newer_message_waits_for_a_newer_consumer(
    url: str, queue: str, publisher: Publisher, consumer: NewConsumer
) -> None:
    old, new = Inbox(), Inbox()
    newer = Publisher(url, queue, Metrics(), SIGNER, version=2)
    async with running(consumer(old)):
        for n in range(3):
            await newer.publish(f"new {n}".encode())
            await publisher.publish(f"old {n}".encode())
        await eventually(lambda: len(old.bodies) == 3)
        assert old.bodies == [b"old 0", b"old 1", b"old 2"]
    # A consumer of version 3 reads what was left for version 2 as well, and what is on the queue itself.
    await newer.publish(b"new 3")
    async with running(consumer(new, version=3)):
        await eventually(lambda: sorted(new.bodies) == [b"new 0", b"new 1", b"new 2", b"new 3"])
    await newer.close()
    assert take_all(url, f"{queue}.v2") == []
    assert take_all(url, f"{queue}.dead") == []


@pytest.mark.parametrize("version", ["soon", 0, -1])
async def test_a_version_that_is_none_is_unreadable(
    url: str, queue: str, consumer: NewConsumer, version: object
) -> None:
    publish_raw(url, queue, b"odd", {VERSION_HEADER: version})
    inbox = Inbox()
    async with running(consumer(inbox)):
        found: list[tuple[bytes, dict[str, object]]] = []

        async def kept() -> bool:
            found.extend(await asyncio.to_thread(take_all, url, f"{queue}.dead"))
            return bool(found)

        await eventually(kept)
    assert found[0][0] == b"odd"
    assert inbox.bodies == []


async def test_a_message_without_a_version_is_of_the_first(url: str, queue: str, consumer: NewConsumer) -> None:
    headers = SIGNER.headers(queue, 1, b"bare")
    del headers[VERSION_HEADER]
    publish_raw(url, queue, b"bare", headers)
    inbox = Inbox()
    async with running(consumer(inbox)):
        await eventually(lambda: inbox.bodies == [b"bare"])


async def test_rabbitmq_tells_when_no_queue_takes_a_message(amqp_url: str) -> None:
    name = f"test-{uuid4().hex[:12]}"
    publisher = Publisher(amqp_url, name, Metrics(), SIGNER)
    inbox = Inbox()
    try:
        await publisher.publish(b"one")
        with kombu.Connection(amqp_url) as connection:
            connection.channel().queue_delete(name)  # somebody tidied up: what comes would get lost
        await publisher.publish(b"two")  # noticed; the queue is made again
        async with running(Consumer(amqp_url, name, inbox.handle, Metrics(), SIGNER)):
            await eventually(lambda: inbox.bodies == [b"two"])
    finally:
        await publisher.close()
        delete_queues(amqp_url, name)


async def test_an_unreadable_event_is_dead_lettered_alone_and_the_others_are_applied(runs_database: Database) -> None:
    store = RunStore(runs_database, reconcile_after=timedelta(hours=1))
    created = (await store.runs.create([new_run()]))[0].run
    no_uuid, no_text = event("run-7", 1, Run.RUNNING), event(created.id, 2, Run.RUNNING, scope_id="\0")
    too_long = [event(created.id, 3, Run.SUCCEEDED, **{key: "x" * 65}) for key in ("scope_id", "rules_hash")]
    strange = [no_uuid, no_text, *too_long]
    mixed = RunEventBatch(events=[*strange, event(created.id, 1, Run.RUNNING)]).SerializeToString()
    announced: list[Run] = []
    dead = await EventApplier(store, SystemClock(), announce=announced.extend).consume([b"\xff\xff", mixed])
    assert [letter.body for letter in dead] == [
        b"\xff\xff",
        *(RunEventBatch(events=[one]).SerializeToString() for one in strange),
    ]
    assert "run-7" in dead[1].reason
    assert [run.id for run in announced] == [created.id]
