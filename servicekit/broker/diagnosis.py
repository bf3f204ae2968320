"""A check of the broker: a message goes to a queue of its own and comes back."""

import asyncio
from uuid import uuid4

from kombu.exceptions import KombuError

from servicekit.broker.address import BrokerAddress
from servicekit.broker.link import (
    PUBLISH_TIMEOUT,
    BrokerUnavailable,
    collapse,
    durable_queue,
    establish,
    give_up,
    open_connection,
    put_confirmed,
    require_suitable,
)
from servicekit.diagnosis import Finding, failed, ok, skipped
from servicekit.telemetry.outages import first_line


async def broker_finding(check: str, url: str | None, prefix: str) -> Finding:
    """Write a message to a queue whose name begins with `prefix`, read it, and delete the queue; None: no broker."""
    if url is None:
        return skipped(check, "BROKER_URL is not set, or ENABLE_QUEUE_PROCESSORS is false: runs execute inline")
    address = BrokerAddress.parse(url)
    try:
        await asyncio.to_thread(_there_and_back, address, f"{prefix}.doctor-{uuid4().hex}")
    except Exception as error:  # Kombu's transports raise what their libraries do
        return failed(
            check,
            first_line(error, *address.passwords),
            "start the broker, or correct BROKER_URL, its user and what that user may do: see Broker in the README",
        )
    return ok(check, f"a message went to a queue at {address.scheme}:// and came back")


def _there_and_back(address: BrokerAddress, name: str) -> None:
    """Raises what Kombu raises, and BrokerUnavailable when the message does not come back."""
    queue = durable_queue(address, name)
    connection = open_connection(address, queue=name, socket_timeout=PUBLISH_TIMEOUT)
    try:
        establish(connection)
        channel = connection.channel()
        require_suitable(channel)
        bound = queue(channel)
        bound.declare()
        try:
            body = uuid4().bytes
            put_confirmed(connection.Producer(channel, auto_declare=False), queue, body, {})
            message = bound.get(no_ack=True)
            if message is None or bytes(message.body) != body:
                raise BrokerUnavailable("a message that it took did not come back")
        finally:
            bound.delete()
    except (OSError, KombuError, *connection.connection_errors):
        give_up(connection)
        raise
    finally:
        collapse(connection)
