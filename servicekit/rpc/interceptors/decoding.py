"""Decodes every request. For invalid bytes gRPC itself would answer without ErrorInfo and log a traceback."""

from collections.abc import AsyncIterator, Awaitable, Mapping
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message

from servicekit.errors import Reason, ServiceError
from servicekit.rpc.interceptors.base import Context, Interceptor, rewrap, unwrap
from servicekit.rpc.validation import max_items

OTHER_FIELDS = 64  # besides list items; a repeated scalar field is valid protobuf, thousands of them are an attack
VARINT, LENGTH_DELIMITED = 0, 2  # wire types
FIXED = {1: 8, 5: 4}  # bytes, by wire type


class Decoding(Interceptor):
    """Parses requests, and refuses bytes that are no valid message with VALIDATION_FAILED.

    An empty submessage has two bytes on the wire and a hundred in memory, so list items are counted before they are
    parsed. Requests of more than `max_bytes`, if given, are refused.
    """

    def __init__(self, max_bytes: int | None = None) -> None:
        self._max_bytes = max_bytes

    def wrap(self, handler: Any, method: str) -> Any:
        """Return the handler with a behaviour that takes bytes, or an iterator of them, and no deserializer."""
        serve, deserialize, max_bytes = unwrap(handler), handler.request_deserializer, self._max_bytes

        def parse(body: bytes) -> Message:
            if max_bytes is not None and len(body) > max_bytes:
                raise ServiceError(
                    Reason.VALIDATION_FAILED, f"the request has more than {max_bytes:,} bytes", field="request"
                )
            try:
                message: Message = deserialize(body)
            except DecodeError:
                raise _malformed() from None
            return message

        if handler.request_streaming:

            async def parse_each(bodies: AsyncIterator[bytes]) -> AsyncIterator[Message]:
                async for body in bodies:
                    yield parse(body)

            def decode_all(bodies: AsyncIterator[bytes], context: Context) -> Awaitable[Message | None]:
                return serve(parse_each(bodies), context)

            return rewrap(handler, decode_all, None)

        limits = _max_items(deserialize(b"").DESCRIPTOR)

        def decode_one(body: bytes, context: Context) -> Awaitable[Message | None]:
            return serve(parse(_truncated(body, limits) if limits else body), context)

        return rewrap(handler, decode_one, None)


def _max_items(descriptor: Descriptor) -> Mapping[int, int]:
    """Return the maximum number of items of a message's lists of messages, by field number."""
    return {
        field.number: limit
        for field in descriptor.fields
        if field.is_repeated and field.type == FieldDescriptor.TYPE_MESSAGE and (limit := max_items(field)) is not None
    }


def _truncated(body: bytes, limits: Mapping[int, int]) -> bytes:
    """Return a serialized message up to and with the first item beyond a limit, for which validation refuses it.

    Raises ServiceError when it has more fields than any valid message. In protobuf's encoding each field is a tag with
    the field's number and wire type, and a value.
    """
    left = dict(limits)
    at = 0
    for _ in range(sum(limits.values()) + OTHER_FIELDS):
        if at >= len(body):
            return body
        tag, at = _varint(body, at)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == VARINT:
            _, at = _varint(body, at)
        elif wire_type == LENGTH_DELIMITED:
            length, at = _varint(body, at)
            at += length
        elif wire_type in FIXED:
            at += FIXED[wire_type]
        else:  # a group; none of our messages has one
            raise _malformed()
        if number in left:
            left[number] -= 1
            if left[number] < 0:
                return body[:at]
    raise ServiceError(Reason.VALIDATION_FAILED, "the request has more fields than any valid one has", field="request")


def _varint(body: bytes, at: int) -> tuple[int, int]:
    """Return the varint at a position, and the position after it."""
    value = shift = 0
    while at < len(body) and shift < 64:
        byte = body[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
    raise _malformed()


def _malformed() -> ServiceError:
    return ServiceError(Reason.VALIDATION_FAILED, "the request is no message of this method", field="request")
