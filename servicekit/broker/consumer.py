"""Consuming from the broker: it always comes back, and no message blocks the others."""

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, Final

import kombu

from servicekit.background.tasks import Worker
from servicekit.broker.link import (
    SIGNATURE_HEADER,
    VERSION,
    VERSION_HEADER,
    collapse,
    durable_queue,
    establish,
    give_up,
    open_connection,
    put_confirmed,
)
from servicekit.broker.receiving import body_of, kept_copy, problem_with, receive, take_as_sent
from servicekit.broker.signing import MessageSigner
from servicekit.errors import ServiceError
from servicekit.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

POLL: Final = 0.5  # seconds a consumer waits for a message before it looks whether to stop
# Seconds without a message after which a consumer of RabbitMQ subscribes anew. A quorum queue that is deleted and
# declared again sends its old consumers nothing, and nobody tells them (seen with 3.10).
RENEWAL = 5.0
RECONNECT_DELAYS: Final = (0.1, 0.5, 1.0, 2.0)  # seconds; the last one repeats
CONSUMER_BATCH: Final = 100  # messages handled, and acknowledged, together
BATCH_BYTES: Final = 8 * 1024 * 1024  # of their bodies, and one message more
LAST_VERSION: Final = 1_000  # of messages; each has a queue of its own
ATTEMPTS: Final = 3  # at a message whose handling fails by itself; then it is put aside


@dataclass(frozen=True)
class DeadLetter:
    """What cannot be read, and why. It is kept for people, in the queue `<queue>.dead`."""

    body: bytes
    reason: str
    headers: Mapping[str, object] = field(default_factory=dict)  # of the message, when it is whole


# Takes what had arrived and returns what of it nobody can ever read. It raises ServiceError or OSError when it
# cannot work now.
Handler = Callable[[Sequence[bytes]], Awaitable[Sequence[DeadLetter]]]


class Consumer(Worker):
    """Takes message bodies from one queue, from a thread of its own, and hands them on in batches.

    `handle` is awaited on the event loop with what had arrived; when it returns, those messages are
    acknowledged. While it raises ServiceError or OSError it is given the same messages again; when it never
    succeeds, the broker keeps them for the next consumer. So `handle` must be idempotent.

    No message blocks the others: what `handle` says nobody can read, and a message by itself on which it fails in
    any other way several times, goes to `<queue>.dead`. A message of a newer version N goes to `<queue>.vN`, where
    consumers of that version find it.

    With a `signer`, a message that no holder of its secrets signed goes to `<queue>.dead` before it is looked at.
    """

    def __init__(
        self,
        url: str,
        queue: str,
        handle: Handler,
        metrics: Metrics,
        signer: MessageSigner | None,
        *,
        version: int = VERSION,
        reconnect_delays: Sequence[float] = RECONNECT_DELAYS,
        renewal: float = RENEWAL,
    ) -> None:
        super().__init__()
        self._reconnect_delays = reconnect_delays
        self._renewal = renewal
        self._signer = signer
        self._refused = metrics.limits_reached.labels("broker_message")
        self._url = url
        self._queue = durable_queue(url, queue)
        self._version = version
        self._handle = handle
        self._connected = metrics.broker_connected.labels(f"consume {queue}")
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
            except BaseException as error:  # what ends the thread is told, whatever it is
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
                connection = open_connection(self._url, socket_timeout=5)
                establish(connection)
                self._drain(connection, stopping, loop)
            except Exception as error:
                if connection is not None:
                    give_up(connection)
                self._connected.set(0)
                delay = self._reconnect_delays[min(self._failures, len(self._reconnect_delays) - 1)]
                log = logger.warning if self._failures == 0 else logger.debug
                log("consuming %s failed: %s; again in %.1f s", self._queue.name, error, delay)
                self._failures += 1
                stopping.wait(delay)
            finally:
                if connection is not None:
                    collapse(connection)

    def _drain(self, connection: kombu.Connection, stopping: threading.Event, loop: asyncio.AbstractEventLoop) -> None:
        arrived: list[Any] = []
        consumer = self._subscribe(connection, arrived)
        self._connected.set(1)
        logger.info("consuming %s", self._queue.name)
        heard = time.monotonic()
        while not stopping.is_set():
            if not arrived and not receive(connection, POLL):
                connection.heartbeat_check()
                self._failures = 0
                if connection.transport.driver_type == "amqp" and time.monotonic() > heard + self._renewal:
                    consumer.channel.close()  # gives back what it was never sent
                    consumer = self._subscribe(connection, arrived)
                    heard = time.monotonic()
            if arrived:
                batch = arrived[:]
                arrived.clear()
                readable = self._sorted_out(batch, connection)
                dead = self._handled([body_of(message) for message in readable], connection, stopping, loop)
                if dead is None:
                    break
                headers = {body_of(message): message.headers for message in readable}
                self._dead_letter(
                    [replace(letter, headers=headers.get(letter.body, {})) for letter in dead], connection
                )
                for message in readable:
                    message.ack()
                self._failures = 0
                # What came in meanwhile is the next batch: looking for it first would keep a lone message waiting.
                while len(arrived) < CONSUMER_BATCH and _size(arrived) < BATCH_BYTES and receive(connection, 0):
                    pass
                heard = time.monotonic()

    def _subscribe(self, connection: kombu.Connection, arrived: list[Any]) -> kombu.Consumer:
        """Have what comes in put into `arrived`. Declares the queues.

        Not to be cancelled on Redis, only closed with its connection: Kombu still reads a message when it closes a
        Redis channel, and one for which there is no consumer any more is lost.
        """
        own = [self._queue, *(self._sibling(f"v{version}") for version in range(2, self._version + 1))]
        channel = take_as_sent(connection.channel())
        consumer = kombu.Consumer(channel, own, on_message=arrived.append, prefetch_count=CONSUMER_BATCH)
        consumer.consume()
        return consumer

    def _sorted_out(self, messages: Sequence[Any], connection: kombu.Connection) -> list[Any]:
        """Return the messages of versions that we read; each of the others is put where it belongs."""
        readable: list[Any] = []
        for message in messages:
            version = message.headers.get(VERSION_HEADER, 1)
            if reason := problem_with(message) or self._forgery(message, version):
                self._refused.inc()
                self._dead_letter([DeadLetter(body_of(message), reason, message.headers)], connection)
                message.ack()
            elif version > self._version:
                newer = self._sibling(f"v{version}")
                logger.error(
                    "a message on %s is of version %d, and we read up to %d: it waits in %s for a newer process",
                    *(self._queue.name, version, self._version, newer.name),
                )
                own = {name: message.headers[name] for name in (SIGNATURE_HEADER,) if name in message.headers}
                _put_aside(connection, newer, body_of(message), {VERSION_HEADER: version} | own)
                message.ack()
            else:
                readable.append(message)
        return readable

    def _forgery(self, message: Any, version: object) -> str:
        """Return why a message is none of ours; "" when it is."""
        if type(version) is not int or not 1 <= version <= LAST_VERSION:
            return f"{VERSION_HEADER} is no version"
        if self._signer is None:
            return ""
        signature = message.headers.get(SIGNATURE_HEADER)
        if signature is None:
            return "it is not signed"
        if not self._signer.is_genuine(signature, self._queue.name, version, body_of(message)):
            return "its signature is not that of a service with our AUTH_JWT_SECRET"
        return ""

    def _handled(
        self,
        bodies: Sequence[bytes],
        connection: kombu.Connection,
        stopping: threading.Event,
        loop: asyncio.AbstractEventLoop,
    ) -> list[DeadLetter] | None:
        """Have `bodies` handled, again and again if need be; return those nobody can read, or None at a stop.

        What was not handled is left unacknowledged: closing the connection gives it back.
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

    def _dead_letter(self, dead: Sequence[DeadLetter], connection: kombu.Connection) -> None:
        for letter in dead:
            dlq = self._sibling("dead")
            logger.error("a message on %s is refused; it is kept in %s: %s", self._queue.name, dlq.name, letter.reason)
            _put_aside(connection, dlq, *kept_copy(letter.body, letter.reason, letter.headers))

    def _sibling(self, suffix: str) -> kombu.Queue:
        return durable_queue(self._url, f"{self._queue.name}.{suffix}")

    async def _hand_on(self, bodies: Sequence[bytes]) -> Sequence[DeadLetter]:
        return await self._handle(bodies)


def _put_aside(connection: kombu.Connection, queue: kombu.Queue, body: bytes, headers: Mapping[str, object]) -> None:
    with connection.channel() as channel:
        queue(channel).declare()
        put_confirmed(kombu.Producer(channel, auto_declare=False), queue, body, headers)


def _size(messages: Sequence[Any]) -> int:
    return sum(len(message.body or "") for message in messages)
