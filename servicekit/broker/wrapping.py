"""What a message is wrapped in at the broker, checked before Kombu takes it apart.

Kombu unpacks a body whose `compression` header says so, however large that gets. A wrapper that Kombu or py-amqp cannot
read is an error of the connection to them: over Redis the entry is lost with it, over RabbitMQ the message comes again,
for ever. Each is prevented where the library lets its user choose: a channel's class of messages and its acknowledging,
redis-py's callback for a command's answer, py-amqp's handler of frames. So a message arrives as it was sent, or as one
that says why it could not be read.
"""

import base64
import binascii
import hashlib
import json
import logging
from collections.abc import Callable
from typing import Any, Final
from uuid import uuid4

import kombu
from amqp.method_framing import frame_handler
from kombu.transport import pyamqp, redis, virtual
from kombu.utils.json import loads

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
_SCALARS = (str, int, float, bool, type(None))


def take_as_sent(channel: Any) -> None:
    """Have messages on `channel` arrive as they were sent. To be called before anything is consumed."""
    if isinstance(channel, pyamqp.Channel):
        channel.Message = _AmqpMessage
        channel.auto_decode = False  # by an encoding that the sender chose
        return
    channel.Message = _VirtualMessage
    if isinstance(channel, redis.Channel):
        channel.QoS = _RedisQoS
        channel.client.set_response_callback("BRPOP", _readable)


def reading_all_headers(connection: Any, callback: Callable[..., None], **options: Any) -> Callable[[Any], bool]:
    """Return py-amqp's handler of frames, but for one thing: properties that it cannot read are no properties.

    RabbitMQ passes on what py-amqp fails at: timestamps far in the future, tables in tables in tables.
    """
    handle: Callable[[Any], bool] = frame_handler(connection, callback, **options)

    def on_frame(frame: Any) -> bool:
        kind, channel, payload = frame
        try:
            return handle(frame)
        except Exception as error:
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
        self.compression = (headers or {}).get("compression")
        super().__init__(*args, headers={k: v for k, v in (headers or {}).items() if k != "compression"}, **kwargs)


class _AmqpMessage(pyamqp.Message, _Packed):  # type: ignore[misc]  # Kombu has no types
    pass


class _VirtualMessage(virtual.Message, _Packed):  # type: ignore[misc]  # Kombu has no types
    pass


class _RedisQoS(redis.QoS):  # type: ignore[misc]  # Kombu has no types
    """Kombu's acknowledging, but for one thing: an entry that cannot be given back is dropped.

    It would fail with every look for messages that a dead consumer left behind, for ever.
    """

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> None:
        try:
            super().restore_by_tag(tag, client=client, leftmost=leftmost)
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            logger.error("an unacknowledged message at the broker cannot be read, and is dropped: %s", error)  # noqa: TRY400
            self._remove_from_indices(tag).execute()


def _readable(answer: Any, **_: object) -> Any:
    """Return the answer to BRPOP: None, or key and entry. An entry that Kombu could not take apart is replaced."""
    if not answer:
        return None
    key, entry = answer
    flaw = _flaw(entry)
    return (key, _stand_in(key, entry, flaw)) if flaw else (key, entry)


def _flaw(entry: bytes) -> str:
    """Return what keeps Kombu from taking an entry apart; "" when nothing does."""
    if len(entry) > _MAX_ENTRY:
        return f"its entry in the queue has {len(entry)} bytes, and {_MAX_ENTRY} is the most"
    try:
        return _odd_shape(loads(entry.decode()))
    except binascii.Error:
        return "its body is not in base64"
    except Exception as error:  # JSON can say anything else instead of a message
        return f"it is no message of Kombu's ({type(error).__name__})"


def _odd_shape(message: Any) -> str:
    headers, properties = message.pop("headers"), message.pop("properties")
    delivery = properties.pop("delivery_info")
    # Nothing is nested any deeper: Kombu writes it all again, and that may fail where reading did not.
    flat = (value for part in (message, headers, properties, delivery) for value in part.values())
    if not all(isinstance(value, _SCALARS) for value in flat):
        return "a header, or what is around the body, is a list or an object"
    names = (properties["delivery_tag"], delivery["routing_key"])
    if delivery["exchange"] != "" or not all(name.isascii() and 0 < len(name) <= _MAX_NAME for name in names):
        return "its delivery tag, exchange or routing key is not as Kombu writes them"
    if properties["body_encoding"] != "base64":
        return "its body is not in base64"
    binascii.a2b_base64(message["body"])
    return ""


def _stand_in(key: bytes, entry: bytes, flaw: str) -> str:
    body, headers = beginning(entry)
    queue = key.decode(errors="replace").split(redis.Channel.sep)[0]
    message = {
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
    return json.dumps(message)
