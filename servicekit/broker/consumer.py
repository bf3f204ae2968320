"""Consuming from the broker: it always comes back, and no message blocks the others."""

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final

import kombu

from servicekit.background.tasks import Worker
from servicekit.broker.address import BrokerAddress
from servicekit.broker.arrival import CAUSES, Arrival, arrival
from servicekit.broker.link import (
    VERSION,
    collapse,
    durable_queue,
    establish,
    give_up,
    open_connection,
    put_confirmed,
    require_suitable,
)
from servicekit.broker.refusals import note
from servicekit.broker.signing import MessageSigner
from servicekit.broker.wrapping import REASON_HEADER, receive, take_as_sent
from servicekit.errors import ServiceError
from servicekit.telemetry.metrics import Metrics
from servicekit.telemetry.outages import Outage

logger = logging.getLogger(__name__)

POLL: Final = 0.5  # seconds a consumer waits for a message before it looks whether to stop
# Seconds without a message after which a consumer of RabbitMQ subscribes anew. A quorum queue that is deleted and
# declared again sends its old consumers nothing, and they get no error (seen with 3.10).
RENEWAL = 5.0
RECONNECT_DELAYS: Final = (0.1, 0.5, 1.0, 2.0)  # seconds; the last one repeats
CONSUMER_BATCH: Final = 100  # messages handled, and acknowledged, together
BATCH_BYTES: Final = 8_000_000  # of messages after which a batch takes in no more; it has one message more at most
ATTEMPTS: Final = 3  # at a message whose handling fails by itself; then it is put aside
REASON_LIMIT: Final = 500  # characters


@dataclass(frozen=True)
class DeadLetter:
    """What cannot be read, and why. It is kept for people, in the queue `<queue>.dead`."""

    body: bytes
    reason: str


# Takes the bodies that arrived and returns those that cannot be read. It raises ServiceError or OSError when it
# cannot work now.
Handler = Callable[[Sequence[bytes]], Awaitable[Sequence[DeadLetter]]]

Letter = tuple[bytes, dict[str, object]]  # body and headers


class Consumer(Worker):
    """Takes message bodies from one queue, from a thread of its own, and hands them on in batches.

    `handle` is awaited on the event loop with what had arrived; when it returns, those messages are
    acknowledged. While it raises ServiceError or OSError it is given the same messages again; when it never
    succeeds, the broker keeps them for the next consumer. So `handle` must be idempotent.

    No message blocks the others: what is not ours (see `arrival`), what `handle` returns as unreadable, and a message
    by itself on which it fails in any other way several times, goes to `<queue>.dead`. A message of a newer version N
    goes to `<queue>.vN`, where consumers of that version find it. Only what `signer` verifies is looked into, or moved
    to anything but the dead letters.
    """

    def __init__(
        self,
        url: str,
        queue: str,
        handle: Handler,
        metrics: Metrics,
        signer: MessageSigner,
        *,
        version: int = VERSION,
        reconnect_delays: Sequence[float] = RECONNECT_DELAYS,
        renewal: float = RENEWAL,
    ) -> None:
        super().__init__()
        self._reconnect_delays = reconnect_delays
        self._renewal = renewal
        self._address = BrokerAddress.parse(url)
        self._signer = signer
        self._refused = {cause: metrics.broker_messages_refused.labels(queue, cause) for cause in CAUSES}
        self._queue = durable_queue(self._address, queue)
        self._version = version
        self._handle = handle
        self._connected = metrics.broker_connected.labels(f"consume {queue}")
        self.outage = Outage(f"the broker gives nothing from {queue}", logger)
        self._failures = 0  # in a row; what comes after a time without trouble is a new fault

    async def run(self) -> None:
        """Consume until cancelled; a lost connection is replaced. Raises RuntimeError when the thread breaks off."""
        stopping = threading.Event()
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[BaseException | None] = loop.create_future()

        def consume() -> None:
            cause = None
            try:
                self._consume(stopping, loop)
            except BaseException as error:  # every end of the thread is raised in `run`
                cause = error
            loop.call_soon_threadsafe(ended.set_result, cause)

        threading.Thread(target=consume, name=f"consume-{self._queue.name}", daemon=True).start()
        try:
            cause = await asyncio.shield(ended)
            raise RuntimeError(f"the thread that consumes {self._queue.name} broke off") from cause
        finally:
            # The thread may be waiting for `handle`, which needs this loop, so wait without blocking it.
            stopping.set()
            await asyncio.wait([ended])

    def _consume(self, stopping: threading.Event, loop: asyncio.AbstractEventLoop) -> None:
        self._failures = 0
        while not stopping.is_set():
            connection: kombu.Connection | None = None
            try:
                connection = open_connection(self._address, queue=self._queue.name, socket_timeout=5)
                establish(connection)
                self._drain(connection, stopping, loop)
            except Exception as error:
                if connection is not None:
                    give_up(connection)
                self._connected.set(0)
                delay = self._reconnect_delays[min(self._failures, len(self._reconnect_delays) - 1)]
                why = note(self.outage, error, *self._address.passwords)
                logger.debug("consuming %s failed: %s; again in %.1f s", self._queue.name, why, delay)
                self._failures += 1
                stopping.wait(delay)
            finally:
                if connection is not None:
                    collapse(connection)

    def _drain(self, connection: kombu.Connection, stopping: threading.Event, loop: asyncio.AbstractEventLoop) -> None:
        arrived: list[Arrival] = []
        consumer = self._subscribe(connection, arrived)
        self._connected.set(1)
        self.outage.ended()
        logger.info("consuming %s", self._queue.name)
        active = time.monotonic()
        while not stopping.is_set():
            if not arrived and not receive(connection, consumer.channel, POLL):
                connection.heartbeat_check()
                self._failures = 0
                if connection.transport.driver_type == "amqp" and time.monotonic() > active + self._renewal:
                    consumer.channel.close()  # gives back what it was never sent
                    consumer = self._subscribe(connection, arrived)
                    active = time.monotonic()
            if arrived:
                batch = arrived[:]
                arrived.clear()
                readable = self._sorted_out(batch, connection)
                dead = self._handled([one.body for one in readable], connection, stopping, loop)
                if dead is None:
                    break
                if dead:
                    self._dead_letter_unreadable(dead, readable, connection)
                for one in readable:
                    one.message.ack()
                self._failures = 0
                # What came in meanwhile is the next batch: looking for it first would keep a lone message waiting.
                while _has_room(arrived) and receive(connection, consumer.channel, 0):
                    pass
                active = time.monotonic()

    def _subscribe(self, connection: kombu.Connection, arrived: list[Arrival]) -> kombu.Consumer:
        """Have what comes in put into `arrived`. Declares the queues.

        Not to be cancelled on Redis, only closed with its connection: Kombu still reads a message when it closes a
        Redis channel, and one for which there is no consumer any more is lost.
        """
        own = [self._queue, *(self._sibling(f"v{version}") for version in range(2, self._version + 1))]

        def take_in(message: Any) -> None:
            arrived.append(arrival(message, self._queue.name, self._signer))

        channel = connection.channel()
        require_suitable(channel)
        take_as_sent(channel)
        consumer = kombu.Consumer(channel, own, on_message=take_in, prefetch_count=CONSUMER_BATCH)
        consumer.consume()
        return consumer

    def _sorted_out(self, arrived: Sequence[Arrival], connection: kombu.Connection) -> list[Arrival]:
        """Return the messages that we read; move the others to their queues."""
        if refused := [one for one in arrived if one.refusal]:
            self._dead_letter_refused(refused, connection)
        for version in sorted({one.version for one in arrived if one.version > self._version}):
            newer = self._sibling(f"v{version}")
            waiting = [one for one in arrived if one.version == version]
            logger.error(
                "%d messages on %s are of version %d, and we read up to %d: they wait in %s for a newer process",
                *(len(waiting), self._queue.name, version, self._version, newer.name),
            )
            _put_aside(connection, newer, [(one.body, one.kept_headers()) for one in waiting])
            for one in waiting:
                one.message.ack()
        return [one for one in arrived if not one.refusal and one.version <= self._version]

    def _dead_letter_refused(self, refused: Sequence[Arrival], connection: kombu.Connection) -> None:
        letters: list[Letter] = []
        for one in refused:
            assert one.refusal is not None
            self._refused[one.refusal.cause].inc()
            letters.append((one.body, {**one.kept_headers(), REASON_HEADER: one.refusal.reason}))
        dlq = self._sibling("dead")
        logger.error(  # one line, however many there are
            "%d messages on %s are refused and kept in %s; the first one: %s",
            *(len(refused), self._queue.name, dlq.name, letters[0][1][REASON_HEADER]),
        )
        _put_aside(connection, dlq, letters)
        for one in refused:
            one.message.ack()

    def _handled(
        self,
        bodies: Sequence[bytes],
        connection: kombu.Connection,
        stopping: threading.Event,
        loop: asyncio.AbstractEventLoop,
    ) -> list[DeadLetter] | None:
        """Have `bodies` handled, with retries; return those that cannot be read, or None at a stop.

        Messages that were not handled stay unacknowledged: the broker delivers them again.
        """
        attempt = 0
        own = 0  # failures that were the messages' own, and not of what handling them needs
        while bodies:
            handled: Future[Sequence[DeadLetter]] = asyncio.run_coroutine_threadsafe(self._hand_on(bodies), loop)
            try:
                return list(handled.result())
            except Exception as error:
                attempt += 1
                by_itself = not isinstance(error, (ServiceError, OSError))
                own += by_itself
                if by_itself and own >= ATTEMPTS:
                    return self._handled_one_by_one(bodies, error, connection, stopping, loop)
                delay = self._reconnect_delays[min(attempt, len(self._reconnect_delays)) - 1]
                log = logger.warning if attempt == 1 or by_itself else logger.debug
                log("handling what came on %s failed: %s; again in %.1f s", self._queue.name, error, delay)
                if stopping.wait(delay):
                    return None
                connection.heartbeat_check()
        return []

    def _handled_one_by_one(
        self,
        bodies: Sequence[bytes],
        error: Exception,
        connection: kombu.Connection,
        stopping: threading.Event,
        loop: asyncio.AbstractEventLoop,
    ) -> list[DeadLetter] | None:
        """Find the messages on which handling fails, so that the others get through."""
        if len(bodies) == 1:
            return [DeadLetter(bodies[0], f"handling it fails: {error}")]
        dead: list[DeadLetter] = []
        for body in bodies:
            found = self._handled([body], connection, stopping, loop)
            if found is None:
                return None
            dead += found
        return dead

    def _dead_letter_unreadable(
        self, dead: Sequence[DeadLetter], readable: Sequence[Arrival], connection: kombu.Connection
    ) -> None:
        """Keep what `handle` could not read of `readable`, signed: all of it came signed, and it can be put back."""
        dlq = self._sibling("dead")
        versions = {one.body: one.version for one in readable}
        letters: list[Letter] = []
        for letter in dead:
            self._refused["content"].inc()
            reason = letter.reason[:REASON_LIMIT]
            logger.error("a message on %s cannot be read; it is kept in %s: %s", self._queue.name, dlq.name, reason)
            version = versions.get(letter.body, self._version)
            signed = self._signer.headers(self._queue.name, version, letter.body)
            letters.append((letter.body, {**signed, REASON_HEADER: reason}))
        _put_aside(connection, dlq, letters)

    def _sibling(self, suffix: str) -> kombu.Queue:
        return durable_queue(self._address, f"{self._queue.name}.{suffix}")

    async def _hand_on(self, bodies: Sequence[bytes]) -> Sequence[DeadLetter]:
        return await self._handle(bodies)


def _put_aside(connection: kombu.Connection, queue: kombu.Queue, letters: Sequence[Letter]) -> None:
    with connection.channel() as channel:
        queue(channel).declare()
        producer = kombu.Producer(channel, auto_declare=False)
        for body, headers in letters:
            put_confirmed(producer, queue, body, headers)


def _has_room(arrived: Sequence[Arrival]) -> bool:
    return len(arrived) < CONSUMER_BATCH and sum(len(one.body) for one in arrived) < BATCH_BYTES
