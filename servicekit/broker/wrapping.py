"""The envelope of a message at the broker. Every message arrives as it was sent, even in a bad envelope.

Kombu unpacks a body whose `compression` header says so, however large that gets. A wrapper that Kombu or py-amqp cannot
read is an error of the connection to them: over Redis the entry is lost with it, over RabbitMQ the message comes again,
for ever. Each is prevented where the library lets its user choose: a channel's class of messages and its acknowledging,
redis-py's callback for a command's answer, py-amqp's handler of frames. So a message arrives as it was sent, or as one
that says why it could not be read.
"""

import base64
import binascii
import hashlib
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Final
from uuid import uuid4

import kombu
from amqp.method_framing import frame_handler
from kombu.exceptions import OperationalError
from kombu.transport import pyamqp, redis, virtual

logger = logging.getLogger(__name__)

MAX_BODY: Final = 4 * 1024 * 1024  # bytes of a message
KEPT: Final = 64 * 1024  # bytes kept of what is refused
UNREADABLE: Final = "application/x-playbook-runs-unreadable"  # stands for an entry that is no message
REASON_HEADER: Final = "playbook-runs-reason"  # why a message is among the dead letters
SIZE_HEADER: Final = "playbook-runs-size"  # bytes of the body that a dead letter has the beginning of
SHA256_HEADER: Final = "playbook-runs-sha256"  # of that body

_MAX_ENTRY = MAX_BODY * 4 // 3 + KEPT  # bytes in Redis: base64, and what is around it
_MAX_NAME = 300  # characters of a delivery tag or a queue's name
_HEADER_FRAME = 2  # py-amqp's number of the frame that has a message's properties
_BODY_SIZE_END = 12  # bytes of that frame before the properties
_NO_PROPERTIES = b"\0\0"
_SCALARS = frozenset({str, int, float, bool, type(None)})
_PARTS = 3  # headers, properties and what is in those about the delivery: all that a message may have besides scalars


def take_as_sent(channel: Any) -> None:
    """Have messages on `channel` arrive as they were sent. To be called before anything is consumed."""
    if isinstance(channel, pyamqp.Channel):
        channel.Message = _AmqpMessage
        channel.auto_decode = False  # by an encoding that the sender chose
        return
    channel.Message = _VirtualMessage
    if isinstance(channel, redis.Channel):
        channel.Message = _RedisMessage
        channel.QoS = _RedisQoS
        channel.entry = None
        channel.client.set_response_callback("BRPOP", partial(_note, channel))


def receive(connection: kombu.Connection, channel: Any, timeout: float) -> bool:
    """Let one message in, waiting at most `timeout` seconds; return whether one arrived.

    Raises what Kombu raises when the connection is broken.
    """
    try:
        connection.drain_events(timeout=timeout)
    except TimeoutError:
        return False
    except (OSError, OperationalError, *connection.connection_errors, *connection.channel_errors):
        raise
    except Exception as error:
        # Kombu has taken an entry off its list in Redis, and cannot read it as JSON.
        if (noted := getattr(channel, "entry", None)) is None:
            raise
        queue, entry = noted
        # Without what the error says, which has what the entry says.
        stand_in = _stand_in(queue, entry, f"it is no message of Kombu's ({type(error).__name__})")
        channel.connection._deliver(stand_in, queue)  # as Kombu does with what it can read
    return True


def reading_all_headers(connection: Any, callback: Callable[..., None], **options: Any) -> Callable[[Any], bool]:
    """Return py-amqp's handler of frames, but for one thing: properties that it cannot read are no properties.

    RabbitMQ passes on what py-amqp fails at: timestamps far in the future, tables in tables in tables.
    """
    handle: Callable[[Any], bool] = frame_handler(connection, callback, **options)

    def on_frame(frame: Any) -> bool:
        try:
            return handle(frame)
        except Exception as error:
            kind, channel, payload = frame
            if kind != _HEADER_FRAME:
                raise
            logger.debug("properties of a message cannot be read: %s", type(error).__name__)
            return handle((kind, channel, bytes(payload[:_BODY_SIZE_END]) + _NO_PROPERTIES))

    return on_frame


def beginning(body: bytes) -> tuple[bytes, dict[str, object]]:
    """Return what is kept of a refused body, and the headers that describe the whole where that is not all of it."""
    if len(body) <= KEPT:
        return body, {}
    return body[:KEPT], {SIZE_HEADER: len(body), SHA256_HEADER: hashlib.sha256(body).hexdigest()}


class _Packed(kombu.Message):  # type: ignore[misc]  # Kombu has no types
    """Kombu's message, but for one thing: the body stays as it came, and `compression` says how it is packed."""

    def __init__(self, *args: Any, headers: Any = None, **kwargs: Any) -> None:
        kept = dict(headers or {})
        self.compression = kept.pop("compression", None)
        super().__init__(*args, headers=kept, **kwargs)


class _AmqpMessage(pyamqp.Message, _Packed):  # type: ignore[misc]  # Kombu has no types
    pass


class _VirtualMessage(virtual.Message, _Packed):  # type: ignore[misc]  # Kombu has no types
    pass


class _RedisMessage(_VirtualMessage):
    """A message of Redis; an entry of another shape than Kombu writes becomes one that says so."""

    def __init__(self, payload: Any, channel: Any = None, **kwargs: Any) -> None:
        noted: tuple[str, bytes] = channel.entry
        channel.entry = None  # it is taken apart here, or replaced
        flaw = _flaw(payload)
        if not flaw:
            try:
                super().__init__(payload, channel=channel, **kwargs)
                return
            except (binascii.Error, ValueError):
                flaw = "its body is not in base64"
        super().__init__(_stand_in(noted[0], noted[1], flaw), channel=channel, **kwargs)


class _RedisQoS(redis.QoS):  # type: ignore[misc]  # Kombu has no types
    """Kombu's acknowledging, but for one thing: an entry that cannot be given back is dropped.

    It would fail with every look for messages that a dead consumer left behind, for ever.
    """

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> None:
        try:
            super().restore_by_tag(tag, client=client, leftmost=leftmost)
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            # Without what the error says, which has what the entry says.
            logger.error(  # noqa: TRY400
                "an unacknowledged message at the broker cannot be read, and is dropped: %s", type(error).__name__
            )
            self._remove_from_indices(tag).execute()


def _note(channel: Any, answer: Any, **_: object) -> Any:
    """Return the answer to BRPOP: None, or key and entry, which is noted. One that is too large is replaced.

    Not parsed here: Kombu parses it next, and twice would cost as much as all the rest of taking a message in.
    """
    if not answer:
        return None
    key, entry = answer
    queue = key.decode(errors="replace").rsplit(redis.Channel.sep, 1)[0]
    channel.entry = queue, entry
    if len(entry) <= _MAX_ENTRY:
        return answer
    return key, b"null"  # which is no message, and `entry` is what it is refused with


def _flaw(message: Any) -> str:
    """Return in what an entry is not as Kombu writes them; "" when it is.

    Nothing is nested any deeper than there: Kombu writes it all again, and that may fail where reading did not.
    """
    try:
        headers, properties = message["headers"], message["properties"]
        delivery = properties["delivery_info"]
        nested = 0
        for part in (message, headers, properties, delivery):
            for value in part.values():
                if type(value) not in _SCALARS:
                    nested += 1
        if nested != _PARTS:
            return "a header, or what is around the body, is a list or an object"
        tag, queue = properties["delivery_tag"], delivery["routing_key"]
        if not (delivery["exchange"] == "" and _is_name(tag) and _is_name(queue)):
            return "its delivery tag, exchange or routing key is not as Kombu writes them"
        if properties["body_encoding"] != "base64" or type(message["body"]) is not str:
            return "its body is not in base64"
    except (TypeError, LookupError, AttributeError) as error:
        return f"it is no message of Kombu's ({type(error).__name__})"
    return ""


def _is_name(value: Any) -> bool:
    return type(value) is str and value.isascii() and 0 < len(value) <= _MAX_NAME


def _stand_in(queue: str, entry: bytes, flaw: str) -> dict[str, object]:
    """Return what Kombu is given instead of an entry that it could not take apart."""
    if len(entry) > _MAX_ENTRY:
        flaw = f"its entry in the queue has {len(entry)} bytes, and {_MAX_ENTRY} is the most"
    body, headers = beginning(entry)
    return {
        "body": base64.b64encode(body).decode(),
        "content-type": UNREADABLE,
        "content-encoding": "binary",
        "headers": {REASON_HEADER: flaw, **headers},
        "properties": {
            "body_encoding": "base64",
            "delivery_tag": str(uuid4()),
            "delivery_info": {"exchange": "", "routing_key": queue},
        },
    }
