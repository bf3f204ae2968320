"""What tests of the broker link share."""

import asyncio
from collections.abc import Sequence
from typing import Any

import kombu
from amqp.exceptions import InternalError

from servicekit.broker import DeadLetter, MessageSigner
from servicekit.broker.address import BrokerAddress
from servicekit.broker.link import CONTENT_TYPE, durable_queue
from servicekit.errors import database_unavailable

TRIES = 5
SIGNER = MessageSigner(["the secret of a test, of 32 characters"])


class Inbox:
    """Takes bodies; a test can have it fail, wait, or return some as unreadable."""

    def __init__(self) -> None:
        self.batches: list[list[bytes]] = []
        self.failures = 0  # of the database, before anything else
        self.accidents = 0  # other failures, after those
        self.unreadable: dict[bytes, str] = {}  # the reason, by body
        self.poison: set[bytes] = set()  # bodies on which it breaks
        self.open = asyncio.Event()
        self.open.set()
        self.entered = 0

    @property
    def bodies(self) -> list[bytes]:
        return [body for batch in self.batches for body in batch]

    async def handle(self, bodies: Sequence[bytes]) -> list[DeadLetter]:
        self.entered += 1
        if self.failures:
            self.failures -= 1
            raise database_unavailable()
        if self.accidents:
            self.accidents -= 1
            raise ArithmeticError("by accident")
        if broken := self.poison.intersection(bodies):
            raise ArithmeticError(f"{len(broken)} on purpose")
        await self.open.wait()
        self.batches.append([body for body in bodies if body not in self.unreadable])
        return [DeadLetter(body, self.unreadable[body]) for body in bodies if body in self.unreadable]


def publish_raw(
    url: str, queue: str, body: bytes, headers: dict[str, object], *, content_type: str = CONTENT_TYPE, **more: Any
) -> None:
    """Publish as another program might, with Kombu; the message is in the queue when this returns.

    RabbitMQ makes the queue if need be.
    """
    # Without the broker's word for it, a message on the next connection may come before this one.
    options = {"confirm_publish": True} if url.startswith("amqp") else {}
    with kombu.Connection(url, transport_options=options) as connection:
        durable_queue(BrokerAddress.parse(url), queue)(connection.channel()).declare()
        connection.Producer().publish(
            body, routing_key=queue, headers=headers, content_type=content_type, content_encoding="binary", **more
        )


def take_all(url: str, queue: str) -> list[tuple[bytes, dict[str, object]]]:
    """Return body and headers of every message in a queue, and take them out of it."""
    found: list[tuple[bytes, dict[str, object]]] = []
    tries = 0
    while True:
        tries += 1
        try:
            with kombu.Connection(url, connect_timeout=20) as connection:
                _take_into(found, connection, queue)
                return found
        except InternalError as error:
            # A loaded RabbitMQ may lose sight of a new queue's process; the next connection finds it.
            if "noproc" not in str(error) or tries == TRIES:
                raise


def _take_into(found: list[tuple[bytes, dict[str, object]]], connection: kombu.Connection, queue: str) -> None:
    channel = connection.channel()
    try:
        while (message := channel.basic_get(queue)) is not None:
            body = message.body
            found.append((body.encode() if isinstance(body, str) else bytes(body), dict(message.headers)))
            channel.basic_ack(message.delivery_tag)
    except connection.channel_errors:  # RabbitMQ: there is no such queue
        return


def delete_queues(url: str, *names: str) -> None:
    """Delete queues, as many of them as there are."""
    with kombu.Connection(url, connect_timeout=20) as connection:
        channel = connection.channel()
        for name in names:
            channel.queue_delete(name)
