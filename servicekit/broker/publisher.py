"""Publishing to the broker, in a bounded time."""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor

import kombu

from servicekit.broker.address import BrokerAddress
from servicekit.broker.link import (
    CONNECT_TIMEOUT,
    PUBLISH_TIMEOUT,
    VERSION,
    BrokerUnavailable,
    BrokerUnsuitable,
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
from servicekit.telemetry.metrics import Metrics
from servicekit.telemetry.outages import Outage

logger = logging.getLogger(__name__)


class Publisher:
    """Publishes message bodies to one queue, signed, from a thread of its own. `close` may be called twice."""

    def __init__(
        self, url: str, queue: str, metrics: Metrics, signer: MessageSigner, *, version: int = VERSION
    ) -> None:
        self._address = BrokerAddress.parse(url)
        self._signer = signer
        self._version = version
        self._queue = durable_queue(self._address, queue)
        self._connected = metrics.broker_connected.labels(f"publish {queue}")
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"publish-{queue}")
        self._producer: kombu.Producer | None = None
        self.outage = Outage(f"the broker takes nothing for {queue}", logger)

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

    async def require_suitable(self) -> None:
        """Connect. Raises SystemExit when this broker can never do; one that is away, or refuses, may come round."""
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._try_out)
        except BrokerUnsuitable as error:
            raise SystemExit(f"BROKER_URL: {error}") from None

    async def close(self) -> None:
        """Close the connection and end the thread."""
        await asyncio.to_thread(self._close)

    def _try_out(self) -> None:
        try:
            self._producer = self._connect()
            self._connected.set(1)
        except BrokerUnsuitable:
            raise
        except Exception as error:
            note(self.outage, error, *self._address.passwords)

    def _publish(self, body: bytes) -> None:
        reused = self._producer is not None
        try:
            try:
                self._send(body)
            except TimeoutError:
                raise
            except Exception:
                # The broker may have dropped an idle connection; a new one may work.
                if not reused:
                    raise
                self._send(body)
        except Exception as error:
            self._connected.set(0)
            why = note(self.outage, error, *self._address.passwords)
            raise BrokerUnavailable(f"publishing to {self._queue.name} failed: {why}") from error
        self._connected.set(1)
        self.outage.ended()

    def _send(self, body: bytes) -> None:
        try:
            if self._producer is None:
                self._producer = self._connect()
            headers = self._signer.headers(self._queue.name, self._version, body)
            put_confirmed(self._producer, self._queue, body, headers)
        except Exception:
            # After any error the state of this connection is unknown.
            if self._producer is not None:
                give_up(self._producer.connection)
            self._disconnect()
            raise

    def _connect(self) -> kombu.Producer:
        connection = open_connection(self._address, queue=self._queue.name, socket_timeout=PUBLISH_TIMEOUT)
        try:
            establish(connection)
            channel = connection.channel()
            require_suitable(channel)
            self._queue(channel).declare()
        except Exception:
            give_up(connection)
            collapse(connection)
            raise
        return kombu.Producer(channel, auto_declare=False)

    def _disconnect(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            collapse(producer.connection)

    def _close(self) -> None:
        self._thread.shutdown(wait=True)
        self._disconnect()
