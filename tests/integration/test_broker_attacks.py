"""Messages of clients that reach the broker without the secret: they are put aside, and the queue goes on."""

import hashlib
import json
import pickle
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from servicekit.background.tasks import running
from servicekit.broker import REASON_HEADER, SIGNATURE_HEADER, VERSION_HEADER, Consumer, MessageSigner, Publisher
from servicekit.broker.link import CONTENT_TYPE
from servicekit.broker.wrapping import KEPT, MAX_BODY, SHA256_HEADER, SIZE_HEADER
from servicekit.telemetry.metrics import Metrics
from tests.support.broker import SIGNER, Inbox, publish_raw, take_all
from tests.support.waiting import eventually

FORGED = b"forged: body of a message"
STRANGER = MessageSigner(["the secret of another stack, of 32 characters"])


@pytest.fixture
def letters(url: str, queue: str) -> Callable[[], list[tuple[bytes, dict[str, Any]]]]:
    """Returns what is among the dead letters, and takes it out."""
    return lambda: take_all(url, f"{queue}.dead")


async def all_but_the_good_are_put_aside(url: str, queue: str, metrics: Metrics | None = None) -> None:
    """Consume what is in the queue, and a good message after it: only that is handled."""
    metrics = metrics or Metrics()
    inbox = Inbox()
    publisher = Publisher(url, queue, metrics, SIGNER)
    await publisher.publish(b"good")
    async with running(Consumer(url, queue, inbox.handle, metrics, SIGNER)):
        await eventually(lambda: b"good" in inbox.bodies)
    await publisher.close()
    assert inbox.bodies == [b"good"]
    assert take_all(url, queue) == []


FORGERIES: dict[str, Callable[[str], dict[str, object]]] = {
    "unsigned": lambda queue: {VERSION_HEADER: 1},
    "without headers": lambda queue: {},
    "another secret": lambda queue: STRANGER.headers(queue, 1, FORGED),
    "another queue": lambda queue: SIGNER.headers(f"{queue}.other", 1, FORGED),
    "another body": lambda queue: SIGNER.headers(queue, 1, b"genuine"),
    "another version": lambda queue: SIGNER.headers(queue, 1, FORGED) | {VERSION_HEADER: 2},
    "a newer version, unsigned": lambda queue: {VERSION_HEADER: 999},
    "a signature that is a number": lambda queue: {VERSION_HEADER: 1, SIGNATURE_HEADER: 7},
}
VERSIONS = ("1", True, 0, 2**40)


@pytest.mark.parametrize("forgery", FORGERIES)
async def test_a_forged_message_is_put_aside(
    url: str, queue: str, forgery: str, letters: Any, caplog: pytest.LogCaptureFixture
) -> None:
    publish_raw(url, queue, FORGED, FORGERIES[forgery](queue))
    metrics = Metrics()
    await all_but_the_good_are_put_aside(url, queue, metrics)
    ((body, headers),) = letters()
    assert body == FORGED
    assert "AUTH_JWT_SECRET" in str(headers[REASON_HEADER])
    assert [r.message.count("refused") for r in caplog.records if r.levelname == "ERROR"] == [1]
    assert "forged" not in caplog.text
    assert metrics.broker_messages_refused.labels(queue, "signature")._value.get() == 1
    assert take_all(url, f"{queue}.v2") == take_all(url, f"{queue}.v999") == []


@pytest.mark.parametrize("version", VERSIONS, ids=repr)
async def test_a_version_that_is_none_is_refused_with_any_signature(
    url: str, queue: str, version: Any, letters: Any
) -> None:
    publish_raw(url, queue, FORGED, SIGNER.headers(queue, version, FORGED))
    metrics = Metrics()
    await all_but_the_good_are_put_aside(url, queue, metrics)
    ((body, headers),) = letters()
    assert body == FORGED
    assert str(headers[REASON_HEADER]).startswith(VERSION_HEADER)
    assert metrics.broker_messages_refused.labels(queue, "version")._value.get() == 1


async def test_forged_messages_that_come_together_are_one_line_of_the_log(
    url: str, queue: str, letters: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(30):
        publish_raw(url, queue, FORGED, {})
    await all_but_the_good_are_put_aside(url, queue)
    assert len(letters()) == 30
    counts = [int(record.getMessage().split()[0]) for record in caplog.records if record.levelname == "ERROR"]
    assert sum(counts) == 30
    if url.startswith("amqp"):  # Redis hands over a message with each answer, so few come together
        assert len(counts) < 10


async def test_while_secrets_are_replaced_messages_of_both_are_read(url: str, queue: str) -> None:
    old, new = "an older secret, of 32 characters", "a newer secret, of 32 characters"
    inbox = Inbox()
    publishers = [
        Publisher(url, queue, Metrics(), MessageSigner(secrets)) for secrets in ([old], [old, new], [new, old])
    ]
    for number, publisher in enumerate(publishers):
        await publisher.publish(str(number).encode())
        await publisher.close()
    async with running(Consumer(url, queue, inbox.handle, Metrics(), MessageSigner([new, old]))):
        await eventually(lambda: inbox.bodies == [b"0", b"1", b"2"])


async def test_without_a_secret_messages_are_read_as_they_are(url: str, queue: str) -> None:
    inbox = Inbox()
    publish_raw(url, queue, b"anybody's", {})
    async with running(Consumer(url, queue, inbox.handle, Metrics(), MessageSigner(()))):
        await eventually(lambda: inbox.bodies == [b"anybody's"])


async def test_a_message_that_is_sent_again_is_handed_on_again(url: str, queue: str) -> None:
    inbox = Inbox()
    for _ in range(3):
        publish_raw(url, queue, b"genuine", SIGNER.headers(queue, 1, b"genuine"))
    async with running(Consumer(url, queue, inbox.handle, Metrics(), SIGNER)):
        await eventually(lambda: inbox.bodies == 3 * [b"genuine"])


async def test_a_dead_letter_can_be_put_back_with_its_headers(url: str, queue: str, letters: Any) -> None:
    publisher = Publisher(url, queue, Metrics(), SIGNER)
    await publisher.publish(b"of tomorrow")
    await publisher.close()
    today, tomorrow = Inbox(), Inbox()
    today.unreadable = {b"of tomorrow": "no idea"}
    async with running(Consumer(url, queue, today.handle, Metrics(), SIGNER)):
        await eventually(lambda: today.batches)
    ((body, headers),) = letters()
    publish_raw(url, queue, body, headers)
    async with running(Consumer(url, queue, tomorrow.handle, Metrics(), SIGNER)):
        await eventually(lambda: tomorrow.bodies == [b"of tomorrow"])


# Whatever is signed, nothing is unpacked, and nothing large is kept.


@contextmanager
def memory_within(limit: int) -> Iterator[None]:
    """Check that the block never has more than `limit` bytes at once, beyond what there was."""
    tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < limit, f"{(peak - before) / 1e6:.0f} MB"


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """100 MB of zeros, packed."""
    return zlib.compress(bytes(100 << 20), 9)


@pytest.mark.parametrize("signed", [True, False])
async def test_nothing_is_unpacked(url: str, queue: str, signed: bool, letters: Any, bomb: bytes) -> None:
    headers = SIGNER.headers(queue, 1, bomb) if signed else {}
    kinds = ("application/x-gzip", "gzip", "zlib", "application/x-bz2", "nonsense", "", 7)
    for kind in kinds:
        publish_raw(url, queue, bomb, headers | {"compression": kind})
    with memory_within(40_000_000):
        await all_but_the_good_are_put_aside(url, queue)
    found = letters()
    assert [kept for kept, _ in found] == len(kinds) * [bomb[:KEPT]]
    assert all("compressed" in headers[REASON_HEADER] for _, headers in found)
    assert {headers[SIZE_HEADER] for _, headers in found} == {len(bomb)}


@pytest.mark.parametrize(
    "content_type",
    [
        "application/x-python-serialize",
        "application/json",
        "application/data",
        "text/plain",
        "",
        "x" * 200,
        "a\x1b]52;",
    ],
    ids=ascii,
)
async def test_every_content_type_but_ours_is_refused(
    url: str, queue: str, content_type: str, letters: Any, caplog: pytest.LogCaptureFixture
) -> None:
    body = json.dumps({}).encode() if content_type == "application/json" else pickle.dumps({"jobs": []})
    publish_raw(url, queue, body, SIGNER.headers(queue, 1, body), content_type=content_type)
    await all_but_the_good_are_put_aside(url, queue)
    ((kept, headers),) = letters()
    assert kept == body
    assert CONTENT_TYPE in headers[REASON_HEADER]
    assert "\x1b" not in caplog.text + headers[REASON_HEADER]


@pytest.mark.parametrize("size", [MAX_BODY + 1, 17_000_000])
async def test_a_large_message_is_refused_and_the_beginning_of_it_kept(
    url: str, queue: str, size: int, letters: Any
) -> None:
    body = b"\x01" * size
    for _ in range(4):
        publish_raw(url, queue, body, SIGNER.headers(queue, 1, body))
    with memory_within(30_000_000 + 5 * size):  # a few copies of one, and not of all
        await all_but_the_good_are_put_aside(url, queue)
    found = letters()
    assert len(found) == 4
    for kept, headers in found:
        assert len(kept) == KEPT
        assert headers[SIZE_HEADER] >= size
        assert SHA256_HEADER in headers
    if url.startswith("amqp"):
        assert found[0][1][SHA256_HEADER] == hashlib.sha256(body).hexdigest()


async def test_the_largest_message_that_is_allowed_goes_through(url: str, queue: str) -> None:
    inbox = Inbox()
    publisher = Publisher(url, queue, Metrics(), SIGNER)
    await publisher.publish(b"\x01" * MAX_BODY)
    await publisher.close()
    async with running(Consumer(url, queue, inbox.handle, Metrics(), SIGNER)):
        await eventually(lambda: [len(body) for body in inbox.bodies] == [MAX_BODY])


async def test_a_batch_holds_a_bounded_number_of_bytes(url: str, queue: str) -> None:
    inbox = Inbox()
    publisher = Publisher(url, queue, Metrics(), SIGNER)
    for _ in range(8):
        await publisher.publish(b"\x01" * 3_000_000)
    await publisher.close()
    async with running(Consumer(url, queue, inbox.handle, Metrics(), SIGNER)):
        await eventually(lambda: len(inbox.bodies) == 8)
    assert max(len(batch) for batch in inbox.batches) <= 3
