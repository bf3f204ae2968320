"""What is around a message at the broker, written by hand: nothing in it blocks a queue or ends its consumer."""

import base64
import json
import struct
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import amqp
import kombu
import pytest
import redis

from devstack.valkey import Valkey
from servicekit.background.tasks import running
from servicekit.broker import REASON_HEADER, Consumer, Publisher
from servicekit.broker.address import BrokerAddress
from servicekit.broker.link import CONTENT_TYPE, durable_queue
from servicekit.broker.wrapping import KEPT, SIZE_HEADER
from servicekit.telemetry.metrics import Metrics
from tests.support.broker import SIGNER, Inbox, delete_queues, publish_raw, take_all
from tests.support.waiting import eventually

BODY = b"genuine"


@pytest.fixture
def queue() -> str:
    return f"test-{uuid4().hex[:12]}"


async def consumed(url: str, queue: str, caplog: pytest.LogCaptureFixture) -> list[bytes]:
    """Return what a consumer handles, up to a good message that comes last. Its link may not break on the way."""
    caplog.set_level("DEBUG", "servicekit.broker")  # a short break is no more than that
    inbox = Inbox()
    publisher = Publisher(url, queue, Metrics(), SIGNER)
    await publisher.publish(b"last")
    await publisher.close()
    async with running(Consumer(url, queue, inbox.handle, Metrics(), SIGNER)):
        await eventually(lambda: b"last" in inbox.bodies)
    assert f"consuming {queue} failed" not in caplog.text
    return inbox.bodies


# Redis: an entry is JSON, and its sender's.


def entry(queue: str, **changes: Any) -> dict[str, Any]:
    """Return what Kombu writes for a signed message, with `changes` to its parts; None leaves one out."""
    parts: dict[str, Any] = {
        "body": base64.b64encode(BODY).decode(),
        "content-encoding": "binary",
        "content-type": CONTENT_TYPE,
        "headers": SIGNER.headers(queue, 1, BODY),
        "properties": {
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": str(uuid4()),
        },
    }
    for name, value in changes.items():
        place, _, inner = name.partition("__")
        if inner:
            parts[place] = parts[place] | {inner: value}
        else:
            parts[place.replace("_", "-")] = value
    return {name: value for name, value in parts.items() if value is not None}


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


RAW: dict[str, Callable[[str], str | bytes]] = {
    "no JSON": lambda q: "nonsense",
    "nothing": lambda q: "",
    "not UTF-8": lambda q: b"\xff\xfe\x00",
    "a number": lambda q: "7",
    "a list": lambda q: "[1, 2]",
    "an empty object": lambda q: "{}",
    "deeply nested": lambda q: nested(100_000),
    "nested as deep as JSON is read": lambda q: json.dumps(entry(q)).replace('"priority": 0', f'"x": {nested(900)}'),
    "a number of 5,000 digits": lambda q: json.dumps(entry(q)).replace('"priority": 0', f'"priority": {"9" * 5000}'),
    "null": lambda q: "null",
    "half a character": lambda q: '{"body": "\\ud800", "properties": {}}',
    "a wrong object of Kombu's": lambda q: '{"__type__": "datetime", "__value__": [1]}',
}
CHANGED: dict[str, dict[str, Any]] = {
    "no headers": {"headers": None},
    "headers in a list": {"headers": [1]},
    "headers that are text": {"headers": "compression"},
    "a header in a header": {"headers__x": {"y": 1}},
    "a header that Kombu makes an object": {"headers": {"__type__": "uuid", "__value__": {"hex": "zz"}}},
    "no properties": {"properties": None},
    "properties in a list": {"properties": [1]},
    "empty properties": {"properties": {}},
    "no delivery info": {"properties__delivery_info": None},
    "a text as delivery info": {"properties__delivery_info": "x"},
    "an exchange": {"properties__delivery_info": {"exchange": "x", "routing_key": "y"}},
    "no routing key": {"properties__delivery_info": {"exchange": ""}},
    "half a character as routing key": {"properties__delivery_info": {"exchange": "", "routing_key": "\ud800"}},
    "an object as tag": {"properties__delivery_tag": {}},
    "no tag": {"properties__delivery_tag": ""},
    "a number as tag": {"properties__delivery_tag": 7},
    "a list as tag": {"properties__delivery_tag": [None]},
    "half a character as tag": {"properties__delivery_tag": "\ud800"},
    "no body": {"body": None},
    "a number as body": {"body": 7},
    "a number as body, as it is": {"body": 10**12, "properties__body_encoding": ""},
    "an object as body": {"body": {"a": 1}},
    "no base64": {"body": "a"},
    "no ASCII": {"body": "é\ud800"},
    "another encoding of the body": {"properties__body_encoding": "zlib"},
    "another content type": {"content_type": 7},
}


@pytest.mark.parametrize("kind", [*RAW, *CHANGED])
async def test_an_entry_in_redis_that_is_no_message_is_put_aside(
    valkey_server: Valkey, queue: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    raw = RAW[kind](queue) if kind in RAW else json.dumps(entry(queue, **CHANGED[kind]))
    with redis.Redis.from_url(valkey_server.url) as client:
        client.lpush(queue, raw)
        assert await consumed(valkey_server.url, queue, caplog) == [b"last"]
        ((_, headers),) = take_all(valkey_server.url, f"{queue}.dead")
        assert headers[REASON_HEADER]
        assert client.hlen(f"{queue}.unacked") == client.zcard(f"{queue}.unacked_index") == 0


async def test_what_kombu_writes_is_read(valkey_server: Valkey, queue: str, caplog: pytest.LogCaptureFixture) -> None:
    with redis.Redis.from_url(valkey_server.url) as client:
        client.lpush(queue, json.dumps(entry(queue)))
    assert await consumed(valkey_server.url, queue, caplog) == [BODY, b"last"]


async def test_a_dead_letter_can_be_moved_back_within_redis(
    valkey_server: Valkey, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    inbox = Inbox()
    inbox.unreadable = {BODY: "of tomorrow"}
    publish_raw(valkey_server.url, queue, BODY, SIGNER.headers(queue, 1, BODY))
    async with running(Consumer(valkey_server.url, queue, inbox.handle, Metrics(), SIGNER)):
        await eventually(lambda: inbox.batches)
    with redis.Redis.from_url(valkey_server.url) as client:
        client.lmove(f"{queue}.dead", queue, "RIGHT", "LEFT")
    assert await consumed(valkey_server.url, queue, caplog) == [BODY, b"last"]


async def test_a_large_entry_in_redis_is_not_taken_apart(
    valkey_server: Valkey, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    raw = b"[" * 100_000_000
    with redis.Redis.from_url(valkey_server.url) as client:
        client.lpush(queue, raw)
    assert await consumed(valkey_server.url, queue, caplog) == [b"last"]
    ((kept, headers),) = take_all(valkey_server.url, f"{queue}.dead")
    assert (kept, headers[SIZE_HEADER]) == (raw[:KEPT], len(raw))


async def test_one_unacknowledged_entry_that_cannot_be_read_stops_no_consumer(
    valkey_server: Valkey, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "servicekit.broker")
    inbox = Inbox()
    publisher = Publisher(valkey_server.url, queue, Metrics(), SIGNER)
    with redis.Redis.from_url(valkey_server.url) as client:
        for tag in ("one", "two"):
            client.hset(f"{queue}.unacked", tag, "no JSON")
            client.zadd(f"{queue}.unacked_index", {tag: 0})
        async with running(Consumer(valkey_server.url, queue, inbox.handle, Metrics(), SIGNER)):
            await eventually(lambda: client.zcard(f"{queue}.unacked_index") == 0)
            await publisher.publish(b"after")
            await eventually(lambda: inbox.bodies == [b"after"])
        assert client.hlen(f"{queue}.unacked") == 0
    await publisher.close()
    assert f"consuming {queue} failed" not in caplog.text


# RabbitMQ: a message's properties are tables, and its sender's.


class RawProperties(amqp.Message):  # type: ignore[misc]  # py-amqp has no types
    """A message with properties that py-amqp would not write."""

    raw = b""

    def _serialize_properties(self) -> bytes:
        return self.raw


def table(value: bytes) -> bytes:
    """Return properties that are one header, x: `value` with its type before it."""
    item = b"\x01x" + value
    return struct.pack(">HI", 0x2000, len(item)) + item


def tables(depth: int) -> bytes:
    value = b"V"
    for _ in range(depth):
        item = b"\x01x" + value
        value = b"F" + struct.pack(">I", len(item)) + item
    return value


PROPERTIES = {
    "a time beyond all calendars": table(b"T" + struct.pack(">Q", 2**63 - 1)),
    "tables in tables": table(tables(3_000)),
    "a sending time beyond all calendars": struct.pack(">HQ", 0x0040, 2**63 - 1),
    "a text that is none": table(b"S" + struct.pack(">I", 2) + b"\xff\xfe"),
    "a content type that is none": struct.pack(">HB", 0x8000, 2) + b"\xff\xfe",
    "nothing": b"\0\0",
}


@pytest.mark.parametrize("body", [BODY, b""], ids=["with a body", "without"])
@pytest.mark.parametrize("kind", PROPERTIES)
async def test_properties_that_cannot_be_read_are_put_aside(
    amqp_url: str, queue: str, kind: str, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    try:
        with kombu.Connection(amqp_url) as connection:
            channel = connection.channel()
            durable_queue(BrokerAddress.parse(amqp_url), queue)(channel).declare()
            message = RawProperties(body)
            message.raw = PROPERTIES[kind]
            channel.basic_publish_confirm(message, routing_key=queue)
        assert await consumed(amqp_url, queue, caplog) == [b"last"]
        ((kept, headers),) = take_all(amqp_url, f"{queue}.dead")
        assert kept == body
        assert headers[REASON_HEADER]
    finally:
        delete_queues(amqp_url, queue, f"{queue}.dead")


async def test_an_encoding_that_its_sender_names_is_not_used(
    amqp_url: str, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Some of Python's take minutes for a megabyte."""
    try:
        with kombu.Connection(amqp_url) as connection:
            channel = connection.channel()
            durable_queue(BrokerAddress.parse(amqp_url), queue)(channel).declare()
            for encoding in ("punycode", "idna", "utf-16", "unicode_escape"):
                message = amqp.Message(
                    b"a" * 1_000_000,
                    content_type=CONTENT_TYPE,
                    content_encoding=encoding,
                    application_headers=SIGNER.headers(queue, 1, BODY),
                )
                channel.basic_publish_confirm(message, routing_key=queue)
        assert await consumed(amqp_url, queue, caplog) == [b"last"]
        assert [kept[:2] for kept, _ in take_all(amqp_url, f"{queue}.dead")] == 4 * [b"aa"]
    finally:
        delete_queues(amqp_url, queue, f"{queue}.dead")
