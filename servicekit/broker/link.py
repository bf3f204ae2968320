"""A connection to the broker: how it is opened, how it is given up, and how a message is put on a queue."""

import logging
import time
from collections.abc import Mapping
from typing import Any, Final

import kombu
from amqp.exceptions import MessageNacked
from kombu.exceptions import OperationalError
from kombu.transport import redis
from redis.exceptions import ResponseError

from servicekit.broker.address import BrokerAddress
from servicekit.broker.wrapping import reading_all_headers

logger = logging.getLogger(__name__)

CONTENT_TYPE: Final = "application/x-protobuf"
CONNECT_TIMEOUT: Final = 1.0  # seconds
PUBLISH_TIMEOUT: Final = 1.0  # seconds
ANSWER_TIMEOUT: Final = 2.0  # seconds RabbitMQ may take to answer anything else
HEARTBEAT: Final = 4  # seconds; after two without a sign of life RabbitMQ, or its client, is gone
NACK_DELAYS: Final = (0.02, 0.08, 0.3)  # seconds; a quorum queue refuses messages while it elects its leader

VERSION: Final = 1  # of what is published; a reader leaves newer messages alone
VERSION_HEADER: Final = "playbook-runs-version"


class BrokerUnavailable(ConnectionError):
    """The broker cannot be reached or did not confirm in time. What was to be published is not lost: its row
    says so, and it is published again later."""


class BrokerUnsuitable(BrokerUnavailable):
    """The broker answers, and can never carry our messages."""


def open_connection(address: BrokerAddress, *, queue: str, socket_timeout: float) -> kombu.Connection:
    """Return a connection, not established yet, whose broker has `socket_timeout` seconds for each answer.

    In Redis, Kombu's own keys get the prefix of `queue`: a user may be restricted to that.
    """
    given: dict[str, Any] = {"connect_timeout": CONNECT_TIMEOUT}
    if address.tls:
        given["ssl"] = address.tls
    if address.is_amqp:
        options: dict[str, Any] = {
            "confirm_publish": True,
            "confirm_timeout": socket_timeout,
            "frame_handler": reading_all_headers,
        }
        return kombu.Connection(address.urls, heartbeat=HEARTBEAT, transport_options=options, **given)
    prefix = queue.rpartition(".")[0] or queue
    options = {
        "socket_timeout": socket_timeout,
        "socket_connect_timeout": CONNECT_TIMEOUT,
        "socket_keepalive": True,
        "health_check_interval": 10,
        # A crash while unacknowledged messages are restored must not block the next restore for minutes.
        "unacked_mutex_expire": 10,
        "visibility_timeout": 60,
        "unacked_key": f"{prefix}.unacked",
        "unacked_index_key": f"{prefix}.unacked_index",
        "unacked_mutex_key": f"{prefix}.unacked_mutex",
        **address.options,
    }
    return kombu.Connection(address.urls, transport_options=options, **given)


def require_suitable(channel: Any) -> None:
    """Raise BrokerUnsuitable when the broker behind `channel` can never carry our messages."""
    if not isinstance(channel, redis.Channel):
        return
    try:
        is_cluster = channel.client.info("cluster").get("cluster_enabled")
    except ResponseError:  # a user that may not ask
        return
    if is_cluster:
        raise BrokerUnsuitable(
            "Redis is in cluster mode, where Kombu's keys are on several servers; use one server, with Sentinel or "
            "without, or RabbitMQ"
        )


def establish(connection: kombu.Connection) -> None:
    """Connect, in a bounded time. Raises what Kombu raises when that fails."""
    connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0.1, timeout=CONNECT_TIMEOUT)
    if connection.transport.driver_type == "amqp":
        # What Redis has by its options. Without it every question, the goodbye too, waits for ever for a silent broker.
        connection.connection.sock.settimeout(ANSWER_TIMEOUT)


def durable_queue(address: BrokerAddress, name: str) -> kombu.Queue:
    """Return a queue that outlives its broker's restart; on RabbitMQ one that is replicated."""
    arguments = {"x-queue-type": "quorum"} if address.is_amqp else None
    # By the default exchange, which leads to every queue by its name: Redis keeps the bindings of any other one among
    # the data, and without them, after a FLUSHALL, it takes every message and puts it nowhere.
    return kombu.Queue(name, routing_key=name, durable=True, queue_arguments=arguments)


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


def put_confirmed(producer: kombu.Producer, queue: kombu.Queue, body: bytes, headers: Mapping[str, object]) -> None:
    """`_put`, again after a moment when the broker refused the message: what it refused, it has not."""
    for delay in NACK_DELAYS:
        try:
            _put(producer, queue, body, headers)
            return
        except MessageNacked:
            time.sleep(delay)
    _put(producer, queue, body, headers)


def give_up(connection: Any) -> None:
    """Give a broken connection up: RabbitMQ's is closed without a goodbye, which would wait for a dead broker.

    Redis' is not: closing it gives unacknowledged messages back, if that can be done at all.
    """
    if connection.transport.driver_type == "amqp":
        connection.collect()


def collapse(connection: Any) -> None:
    """Close a connection that may be broken in any way."""
    try:
        connection.close()
    except (OSError, OperationalError, *connection.connection_errors, *connection.channel_errors) as error:
        logger.debug("closing a broken broker connection: %s", error)
