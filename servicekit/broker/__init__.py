"""The link to the broker, over Kombu: Redis/Valkey or RabbitMQ by URL alone.

The broker is a doorbell: nothing is lost when it loses a message, so the link aims at two things only, a
bounded time for every publish, and a consumer that always comes back. Kombu blocks, so each link has a
thread of its own and Kombu never runs on the event loop.
"""

import servicekit.broker.plain_redis  # noqa: F401  # before all that imports redis-py
from servicekit.broker.consumer import Consumer, DeadLetter
from servicekit.broker.link import VERSION_HEADER, BrokerUnavailable, BrokerUnsuitable
from servicekit.broker.publisher import Publisher
from servicekit.broker.signing import SIGNATURE_HEADER, MessageSigner
from servicekit.broker.wrapping import REASON_HEADER

__all__ = [
    "REASON_HEADER",
    "SIGNATURE_HEADER",
    "VERSION_HEADER",
    "BrokerUnavailable",
    "BrokerUnsuitable",
    "Consumer",
    "DeadLetter",
    "MessageSigner",
    "Publisher",
]
