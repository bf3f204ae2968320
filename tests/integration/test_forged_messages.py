"""What whoever reaches the broker can do without the services' secret: nothing but fill the dead letters."""

import asyncio
import base64
import json
import os
import zlib
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import psutil
import pytest
import redis

from devstack.valkey import Valkey
from servicekit.background.tasks import running
from servicekit.broker import REASON_HEADER, SIGNATURE_HEADER, VERSION_HEADER, Consumer, MessageSigner, Publisher
from servicekit.broker.link import MAX_BODY
from servicekit.broker.receiving import COPY_LIMIT, DIGEST_HEADER, SIZE_HEADER
from servicekit.telemetry.metrics import Metrics
from tests.support.broker import Inbox, delete_queues, publish_raw, signed, take_all
from tests.support.waiting import eventually

SIGNER = MessageSigner(["the secret of both services, of 32 or more"])
STRANGER = MessageSigner(["a secret that a stranger made up, 32 or more"])
MB = 1_000_000


async def received(url: str, queue: str, publish: Callable[[], None], metrics: Metrics | None = None) -> list[bytes]:
    """Publish while a consumer with a signer runs, then a genuine message; return all bodies that it handed on."""
    inbox = Inbox()
    publisher = Publisher(url, queue, Metrics(), SIGNER)
    try:
        async with running(Consumer(url, queue, inbox.handle, metrics or Metrics(), SIGNER)):
            await asyncio.to_thread(publish)
            await publisher.publish(b"genuine")
            await eventually(lambda: b"genuine" in inbox.bodies, timeout=30)
    finally:
        await publisher.close()
    return inbox.bodies


async def dead_letters(url: str, queue: str, count: int) -> dict[bytes, dict[str, object]]:
    """Return the headers of so many dead letters, by body; a quorum queue shows them a moment after it took them."""
    found: list[tuple[bytes, dict[str, object]]] = []

    async def taken() -> bool:
        found.extend(await asyncio.to_thread(take_all, url, f"{queue}.dead"))
        return len(found) >= count

    await eventually(taken)
    assert len(found) == count
    return dict(found)


def forgeries(queue: str) -> dict[bytes, dict[str, object]]:
    """Return headers of messages that are not genuine, by body."""
    return {
        b"no signature": {VERSION_HEADER: 1},
        b"no headers": {},
        b"another secret": signed(STRANGER, queue, 1, b"another secret"),
        b"another queue": signed(SIGNER, f"{queue}.other", 1, b"another queue"),
        b"another body": signed(SIGNER, queue, 1, b"the body that was signed"),
        b"another version": signed(SIGNER, queue, 1, b"another version") | {VERSION_HEADER: 2},
        b"a signature that is a number": {VERSION_HEADER: 1, SIGNATURE_HEADER: 17},
        b"a version that is a text": signed(SIGNER, queue, 1, b"a version that is a text") | {VERSION_HEADER: "1"},
        b"a version that is a truth": signed(SIGNER, queue, 1, b"a version that is a truth") | {VERSION_HEADER: True},
        b"a version beyond all": signed(SIGNER, queue, 2**40, b"a version beyond all"),
    }


async def test_forged_messages_go_to_the_dead_letters(url: str, queue: str) -> None:
    metrics, forged = Metrics(), forgeries(queue)

    def publish() -> None:
        for body, headers in forged.items():
            publish_raw(url, queue, body, headers)

    assert await received(url, queue, publish, metrics) == [b"genuine"]
    letters = await dead_letters(url, queue, len(forged))
    assert letters.keys() == forged.keys()
    assert all(headers[REASON_HEADER] for headers in letters.values())
    assert metrics.limits_reached.labels("broker_message")._value.get() == len(forged)
    assert take_all(url, f"{queue}.v2") == []


async def test_a_dead_letter_is_put_back_as_it_was(url: str, queue: str) -> None:
    inbox = Inbox()
    inbox.unreadable = {b"for a version with a mistake": "a mistake"}
    publisher = Publisher(url, queue, Metrics(), SIGNER)
    await publisher.publish(b"for a version with a mistake")
    await publisher.close()
    async with running(Consumer(url, queue, inbox.handle, Metrics(), SIGNER)):
        await eventually(lambda: inbox.entered)
        ((body, headers),) = (await dead_letters(url, queue, 1)).items()
        inbox.unreadable = {}
        await asyncio.to_thread(publish_raw, url, queue, body, headers)
        await eventually(lambda: inbox.bodies == [body])


async def test_a_message_that_comes_again_is_genuine_again(url: str, queue: str) -> None:
    """Replays are harmless by design: what handles messages is idempotent, with or without an attacker."""
    headers = signed(SIGNER, queue, 1, b"once")
    bodies = await received(url, queue, lambda: [publish_raw(url, queue, b"once", headers) for _ in range(3)] and None)
    assert bodies == [b"once"] * 3 + [b"genuine"]


CONTENT_TYPES = ("application/x-python-serialize", "application/json", "text/plain", "application/data")


async def test_other_content_types_are_refused_whoever_signed_them(url: str, queue: str) -> None:
    def publish() -> None:
        for kind in CONTENT_TYPES:
            body = kind.encode()
            publish_raw(url, queue, body, signed(SIGNER, queue, 1, body), content_type=kind)

    assert await received(url, queue, publish) == [b"genuine"]
    letters = await dead_letters(url, queue, len(CONTENT_TYPES))
    assert all("content type" in str(headers[REASON_HEADER]) for headers in letters.values())


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """A small body that unpacks to 400 MB."""
    return zlib.compress(b"\0" * 400 * MB)


COMPRESSIONS = ("application/x-gzip", "zlib", "application/x-bz2", "nonsense", "", 7)


async def test_nothing_is_unpacked(url: str, queue: str, bomb: bytes) -> None:
    memory = psutil.Process(os.getpid()).memory_info
    before = memory().rss

    def publish() -> None:
        for compression in COMPRESSIONS:
            publish_raw(url, queue, bomb, signed(SIGNER, queue, 1, bomb) | {"compression": compression})

    assert await received(url, queue, publish) == [b"genuine"]
    assert memory().rss - before < 100 * MB
    letters = await dead_letters(url, queue, len(COMPRESSIONS))
    assert letters.keys() == {bomb[:COPY_LIMIT]}
    assert letters[bomb[:COPY_LIMIT]][SIZE_HEADER] == len(bomb)


async def test_a_message_of_17_megabytes_is_refused_and_a_bounded_copy_kept(url: str, queue: str) -> None:
    body = b"x" * 17 * MB
    assert await received(url, queue, lambda: publish_raw(url, queue, body, signed(SIGNER, queue, 1, body))) == [
        b"genuine"
    ]
    ((copy, kept),) = (await dead_letters(url, queue, 1)).items()
    assert copy == body[:COPY_LIMIT]
    assert (kept[SIZE_HEADER], len(str(kept[DIGEST_HEADER]))) == (17 * MB, 64)
    assert str(MAX_BODY // 1_000)[0] in str(kept[REASON_HEADER])


def entry(**changed: Any) -> dict[str, Any]:
    """An entry of a Redis list as Kombu makes it, with something else in place."""
    properties = {
        "body_encoding": "base64",
        "delivery_info": {"exchange": "", "routing_key": "q"},
        "delivery_tag": "t",
        "delivery_mode": 2,
        "priority": 0,
    }
    return {
        "body": base64.b64encode(b"x").decode(),
        "content-encoding": "binary",
        "content-type": "application/x-protobuf",
        "headers": {},
        "properties": properties,
    } | changed


def with_property(**changed: Any) -> dict[str, Any]:
    made = entry()
    made["properties"] |= changed
    return made


ENTRIES: dict[str, bytes] = {
    "no JSON": b"{",
    "no text": b"\xff\xfe",
    "nothing": b"",
    "deep": b"[" * 100_000,
    "a number": b"7",
    "a list": b"[]",
    "null": b"null",
    "no properties": json.dumps(entry(properties=None)).encode(),
    "empty properties": json.dumps(entry(properties={})).encode(),
    "properties of another kind": json.dumps(entry(properties=[1])).encode(),
    "body of another kind": json.dumps(entry(body={"a": 1})).encode(),
    "body that is no base64": json.dumps(entry(body="***")).encode(),
    "no body": json.dumps(entry(body=None)).encode(),
    "a codec there is not": json.dumps(
        entry() | {"properties": entry()["properties"] | {"body_encoding": "no"}}
    ).encode(),
    "headers of another kind": json.dumps(entry(headers=[1, 2])).encode(),
    "headers that are text": json.dumps(entry(headers="compression")).encode(),
    "a tag of another kind": json.dumps(
        entry() | {"properties": entry()["properties"] | {"delivery_tag": {}}}
    ).encode(),
    "no delivery info": json.dumps(entry() | {"properties": entry()["properties"] | {"delivery_info": 5}}).encode(),
    "half a character": b'{"body": "\\ud800", "properties": {}}',
}


async def test_entries_that_are_no_messages_stop_nobody(valkey_server: Valkey) -> None:
    url, queue = valkey_server.url, f"test-{uuid4().hex}"
    with redis.Redis.from_url(url) as client:
        bodies = await received(url, queue, lambda: client.lpush(queue, *ENTRIES.values()) and None)
        assert bodies == [b"genuine"]
        assert client.llen(queue) == 0
    delete_queues(url, queue, f"{queue}.dead")
