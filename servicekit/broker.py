"""The link to the broker, over Kombu: Redis/Valkey or RabbitMQ by URL alone.

The broker is a doorbell: nothing is lost when it loses a message, so the link aims at two things only, a
bounded time for every publish, and a consumer that always comes back. Kombu blocks, so each link has a
thread of its own and Kombu never runs on the event loop.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import kombu
from amqp.exceptions import MessageNacked
from kombu.exceptions import OperationalError

from servicekit.errors import ServiceError
from servicekit.lifecycle import Worker
from servicekit.metrics import Metrics

logger = logging.getLogger(__name__)

CONTENT_TYPE: Final = "application/x-protobuf"
CONNECT_TIMEOUT: Final = 1.0  # seconds
PUBLISH_TIMEOUT: Final = 1.0  # seconds
ANSWER_TIMEOUT: Final = 2.0  # seconds RabbitMQ may take to answer anything else
HEARTBEAT: Final = 4  # seconds; after two without a sign of life RabbitMQ, or its client, is gone
# Seconds without a message after which a consumer of RabbitMQ subscribes anew. A quorum queue that is deleted and
# declared again sends its old consumers nothing, and nobody tells them (seen with 3.10).
RENEWAL = 5.0
POLL: Final = 0.5  # seconds a consumer waits for a message before it looks whether to stop
NACK_DELAYS: Final = (0.02, 0.08, 0.3)  # seconds; a quorum queue refuses messages while it elects its leader
RECONNECT_DELAYS: Final = (0.1, 0.5, 1.0, 2.0)  # seconds; the last one repeats
CONSUMER_BATCH: Final = 100  # messages handled, and acknowledged, together
ATTEMPTS: Final = 3  # at a message whose handling fails by itself; then it is put aside

VERSION: Final = 1  # of what is published; a reader leaves newer messages alone
VERSION_HEADER: Final = "playbook-runs-version"
REASON_HEADER: Final = "playbook-runs-reason"  # why a message is among the dead letters
REASON_LIMIT: Final = 500  # characters


class BrokerUnavailable(ConnectionError):
    """The broker cannot be reached or did not confirm in time. What was to be published is not lost: its row
    says so, and it is published again later."""


@dataclass(frozen=True)
class DeadLetter:
    """What cannot be read, and why. It is kept for people, in the queue `<queue>.dead`."""

    body: bytes
    reason: str


# Takes what had arrived and returns what of it nobody can ever read. It raises ServiceError or OSError when it
# cannot work now.
Handler = Callable[[Sequence[bytes]], Awaitable[Sequence[DeadLetter]]]


def _connection(url: str, *, socket_timeout: float) -> kombu.Connection:
    if url.startswith(("amqp", "pyamqp")):
        options: dict[str, Any] = {"confirm_publish": True, "confirm_timeout": socket_timeout}
        return kombu.Connection(url, connect_timeout=CONNECT_TIMEOUT, heartbeat=HEARTBEAT, transport_options=options)
    options = {
        "socket_timeout": socket_timeout,
        "socket_connect_timeout": CONNECT_TIMEOUT,
        "socket_keepalive": True,
        "health_check_interval": 10,
        # A crash while unacknowledged messages are restored must not block the next restore for minutes.
        "unacked_mutex_expire": 10,
        "visibility_timeout": 60,
    }
    return kombu.Connection(url, connect_timeout=CONNECT_TIMEOUT, transport_options=options)


def _establish(connection: kombu.Connection) -> None:
    connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0.1, timeout=CONNECT_TIMEOUT)
    if connection.transport.driver_type == "amqp":
        # What Redis has by its options. Without it every question, the goodbye too, waits for ever for a silent broker.
        connection.connection.sock.settimeout(ANSWER_TIMEOUT)


def _queue(url: str, name: str) -> kombu.Queue:
    arguments = {"x-queue-type": "quorum"} if url.startswith(("amqp", "pyamqp")) else None
    # By the default exchange, which leads to every queue by its name: Redis keeps the bindings of any other one among
    # the data, and without them, after a FLUSHALL, it takes every message and puts it nowhere.
    return kombu.Queue(name, routing_key=name, durable=True, queue_arguments=arguments)


class Publisher:
    """Publishes message bodies to one queue, from a thread of its own. `close` may be called twice."""

    def __init__(self, url: str, queue: str, metrics: Metrics, *, version: int = VERSION) -> None:
        self._url = url
        self._headers = {VERSION_HEADER: version}
        self._queue = _queue(url, queue)
        self._connected = metrics.broker_connected.labels(f"publish {queue}")
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"publish-{queue}")
        self._producer: kombu.Producer | None = None

    async def publish(self, body: bytes) -> None:
        """Publish one message; it is at the broker when this returns. Raises BrokerUnavailable."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT + 2 * PUBLISH_TIMEOUT):
                await loop.run_in_executor(self._thread, self._publish, body)
        except TimeoutError as error:
            raise BrokerUnavailable("the broker did not confirm in time") from error
        except RuntimeError as error:  # out of the executor; `_publish` raises only BrokerUnavailable
            raise BrokerUnavailable("the link to the broker is closed") from error

    async def close(self) -> None:
        """Close the connection and end the thread."""
        await asyncio.to_thread(self._close)

    def _publish(self, body: bytes) -> None:
        reused = self._producer is not None
        try:
            try:
                self._send(body)
            except TimeoutError:
                raise
            except Exception:
                # The broker may have dropped the connection while nobody used it, which says nothing about now.
                if not reused:
                    raise
                self._send(body)
        except Exception as error:
            self._connected.set(0)
            raise BrokerUnavailable(f"publishing to {self._queue.name} failed: {error}") from error
        self._connected.set(1)

    def _send(self, body: bytes) -> None:
        try:
            if self._producer is None:
                self._producer = self._connect()
            _put_confirmed(self._producer, self._queue, body, self._headers)
        except Exception:
            # Whatever went wrong, this connection is not to be trusted any more.
            if self._producer is not None:
                _give_up(self._producer.connection)
            self._disconnect()
            raise

    def _connect(self) -> kombu.Producer:
        connection = _connection(self._url, socket_timeout=PUBLISH_TIMEOUT)
        try:
            _establish(connection)
            channel = connection.channel()
            self._queue(channel).declare()
        except Exception:
            _give_up(connection)
            _collapse(connection)
            raise
        return kombu.Producer(channel, auto_declare=False)

    def _disconnect(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            _collapse(producer.connection)

    def _close(self) -> None:
        self._thread.shutdown(wait=True)
        self._disconnect()


class Consumer(Worker):
    """Takes message bodies from one queue, from a thread of its own, and hands them on in batches.

    `handle` is awaited on the event loop with what had arrived; when it returns, those messages are
    acknowledged. While it raises ServiceError or OSError it is given the same messages again; when it never
    succeeds, the broker keeps them for the next consumer. So `handle` must be idempotent.

    No message blocks the others: what `handle` says nobody can read, and a message by itself on which it fails in
    any other way several times, goes to `<queue>.dead`. A message of a newer version N goes to `<queue>.vN`, where
    consumers of that version find it.
    """

    def __init__(self, url: str, queue: str, handle: Handler, metrics: Metrics, *, version: int = VERSION) -> None:
        super().__init__()
        self._url = url
        self._queue = _queue(url, queue)
        self._version = version
        self._handle = handle
        self._connected = metrics.broker_connected.labels(f"consume {queue}")
        self._failures = 0  # in a row; what comes after a time without trouble is a new fault

    async def run(self) -> None:
        """Consume until cancelled; a lost connection is replaced."""
        stopping = threading.Event()
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()

        def consume() -> None:
            try:
                self._consume(stopping, loop)
            finally:
                loop.call_soon_threadsafe(ended.set_result, None)

        threading.Thread(target=consume, name=f"consume-{self._queue.name}", daemon=True).start()
        try:
            await asyncio.shield(ended)
        finally:
            # The thread may be waiting for `handle`, which needs this loop, so wait without blocking it.
            stopping.set()
            await ended

    def _consume(self, stopping: threading.Event, loop: asyncio.AbstractEventLoop) -> None:
        self._failures = 0
        while not stopping.is_set():
            connection = _connection(self._url, socket_timeout=5)
            try:
                _establish(connection)
                self._drain(connection, stopping, loop)
            except Exception as error:
                _give_up(connection)
                self._connected.set(0)
                delay = RECONNECT_DELAYS[min(self._failures, len(RECONNECT_DELAYS) - 1)]
                log = logger.warning if self._failures == 0 else logger.debug
                log("consuming %s failed: %s; again in %.1f s", self._queue.name, error, delay)
                self._failures += 1
                stopping.wait(delay)
            finally:
                _collapse(connection)

    def _drain(self, connection: kombu.Connection, stopping: threading.Event, loop: asyncio.AbstractEventLoop) -> None:
        arrived: list[Any] = []
        consumer = self._subscribe(connection, arrived)
        self._connected.set(1)
        logger.info("consuming %s", self._queue.name)
        heard = time.monotonic()
        while not stopping.is_set():
            if not arrived and not _receive(connection, POLL):
                connection.heartbeat_check()
                self._failures = 0
                if connection.transport.driver_type == "amqp" and time.monotonic() > heard + RENEWAL:
                    consumer.channel.close()  # gives back what it was never sent
                    consumer = self._subscribe(connection, arrived)
                    heard = time.monotonic()
            if arrived:
                batch = arrived[:]
                arrived.clear()
                readable = self._sorted_out(batch, connection)
                dead = self._handled([_body(message) for message in readable], connection, stopping, loop)
                if dead is None:
                    break
                self._bury(dead, connection)
                for message in readable:
                    message.ack()
                self._failures = 0
                # What came in meanwhile is the next batch: looking for it first would keep a lone message waiting.
                while len(arrived) < CONSUMER_BATCH and _receive(connection, 0):
                    pass
                heard = time.monotonic()

    def _subscribe(self, connection: kombu.Connection, arrived: list[Any]) -> kombu.Consumer:
        """Have what comes in put into `arrived`. Declares the queues.

        Not to be cancelled on Redis, only closed with its connection: Kombu still reads a message when it closes a
        Redis channel, and one for which there is no consumer any more is lost.
        """
        own = [self._queue, *(self._sibling(f"v{version}") for version in range(2, self._version + 1))]
        consumer = kombu.Consumer(connection.channel(), own, on_message=arrived.append, prefetch_count=CONSUMER_BATCH)
        consumer.consume()
        return consumer

    def _sorted_out(self, messages: Sequence[Any], connection: kombu.Connection) -> list[Any]:
        """Return the messages of versions that we read; each of the others is put where it belongs."""
        readable: list[Any] = []
        for message in messages:
            version = (message.headers or {}).get(VERSION_HEADER, 1)
            if not isinstance(version, int) or version < 1:
                self._bury([DeadLetter(_body(message), f"{VERSION_HEADER} is {version!r}")], connection)
                message.ack()
            elif version > self._version:
                newer = self._sibling(f"v{version}")
                logger.error(
                    "a message on %s is of version %d, and we read up to %d: it waits in %s for a newer process",
                    *(self._queue.name, version, self._version, newer.name),
                )
                _put_aside(connection, newer, _body(message), {VERSION_HEADER: version})
                message.ack()
            else:
                readable.append(message)
        return readable

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
        while bodies:
            handled: Future[Sequence[DeadLetter]] = asyncio.run_coroutine_threadsafe(self._hand_on(bodies), loop)
            try:
                return list(handled.result())
            except Exception as error:
                attempt += 1
                by_itself = not isinstance(error, (ServiceError, OSError))
                if by_itself and attempt >= ATTEMPTS:
                    return self._handled_one_by_one(bodies, error, connection, stopping, loop)
                delay = RECONNECT_DELAYS[min(attempt, len(RECONNECT_DELAYS)) - 1]
                log = logger.warning if attempt == 1 else logger.debug
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

    def _bury(self, dead: Sequence[DeadLetter], connection: kombu.Connection) -> None:
        for letter in dead:
            grave = self._sibling("dead")
            logger.error(
                "a message on %s cannot be read; it is kept in %s: %s", self._queue.name, grave.name, letter.reason
            )
            _put_aside(connection, grave, letter.body, {REASON_HEADER: letter.reason[:REASON_LIMIT]})

    def _sibling(self, suffix: str) -> kombu.Queue:
        return _queue(self._url, f"{self._queue.name}.{suffix}")

    async def _hand_on(self, bodies: Sequence[bytes]) -> Sequence[DeadLetter]:
        return await self._handle(bodies)


def _put(producer: kombu.Producer, queue: kombu.Queue, body: bytes, headers: Mapping[str, object]) -> None:
    """Publish to `queue`. On RabbitMQ it returns when the broker confirmed; a message that no queue took raises."""
    producer.publish(
        body,
        routing_key=queue.routing_key,
        headers=dict(headers),
        content_type=CONTENT_TYPE,
        content_encoding="binary",
        delivery_mode="persistent",
        mandatory=True,
        timeout=PUBLISH_TIMEOUT,
    )


def _put_confirmed(producer: kombu.Producer, queue: kombu.Queue, body: bytes, headers: Mapping[str, object]) -> None:
    """`_put`, again after a moment when the broker refused the message: what it refused, it has not."""
    for delay in NACK_DELAYS:
        try:
            _put(producer, queue, body, headers)
            return
        except MessageNacked:
            time.sleep(delay)
    _put(producer, queue, body, headers)


def _put_aside(connection: kombu.Connection, queue: kombu.Queue, body: bytes, headers: Mapping[str, object]) -> None:
    with connection.channel() as channel:
        queue(channel).declare()
        _put_confirmed(kombu.Producer(channel, auto_declare=False), queue, body, headers)


def _body(message: Any) -> bytes:
    body = message.body
    return body.encode() if isinstance(body, str) else bytes(body)  # py-amqp says "" when there is none


def _receive(connection: kombu.Connection, timeout: float) -> bool:
    """Let one message in, waiting at most `timeout` seconds; tell whether there was one."""
    try:
        connection.drain_events(timeout=timeout)
    except TimeoutError:
        return False
    return True


def _give_up(connection: Any) -> None:
    """Take a connection for broken: RabbitMQ's is closed without a goodbye, for which a dead broker keeps us waiting.

    Redis' is not: closing it gives unacknowledged messages back, if that can be done at all.
    """
    if connection.transport.driver_type == "amqp":
        connection.collect()


def _collapse(connection: Any) -> None:
    """Close a connection that may be broken in any way."""
    try:
        connection.close()
    except (OSError, OperationalError, *connection.connection_errors, *connection.channel_errors) as error:
        logger.debug("closing a broken broker connection: %s", error)
