"""Decodes every request: gRPC's own answer to bytes that are no message has no ErrorInfo, and a trace in the log."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message

from servicekit.errors import Reason, ServiceError
from servicekit.rpc.interceptors.base import Call, CallInterceptor, Context, rewrap, unwrap
from servicekit.rpc.validation import most_items

OTHER_FIELDS = 64  # beside the items of lists; a field that stands twice is valid protobuf, thousands are an attack
VARINT, LENGTH_DELIMITED = 0, 2  # kinds of values, as tags name them
FIXED = {1: 8, 5: 4}  # bytes, by kind


class Decoding(CallInterceptor):
    """Turns bytes into a message; refuses those that are none, with VALIDATION_FAILED.

    An empty submessage takes two bytes and becomes an object of a hundred: lists of messages are counted before they
    are made. Messages of more than `most_bytes`, if given, are refused.
    """

    def __init__(self, most_bytes: int | None = None) -> None:
        self._most_bytes = most_bytes

    async def surround(self, call: Call, method: str, request: Any, context: Context) -> Message | None:
        """Serve the call; its request is decoded already."""
        return await call(request, context)

    def wrap(self, handler: Any, method: str) -> Any:
        """Return the handler, which takes bytes now: one message's, or an iterator of them."""
        serve = unwrap(handler)
        decode = handler.request_deserializer

        most_bytes = self._most_bytes

        def decoded(body: bytes) -> Message:
            if most_bytes is not None and len(body) > most_bytes:
                raise ServiceError(
                    Reason.VALIDATION_FAILED, f"the request has more than {most_bytes:,} bytes", field="request"
                )
            try:
                message: Message = decode(body)
            except DecodeError:
                raise _no_message() from None
            return message

        if handler.request_streaming:

            async def each(bodies: AsyncIterator[bytes]) -> AsyncIterator[Message]:
                async for body in bodies:
                    yield decoded(body)

            async def decode_all(bodies: AsyncIterator[bytes], context: Context) -> Message | None:
                return await serve(each(bodies), context)

            return rewrap(handler, decode_all, None)

        limits = _limits_of(decode(b"").DESCRIPTOR)

        async def decode_one(body: bytes, context: Context) -> Message | None:
            if limits:
                body = _cut(body, limits)
            return await serve(decoded(body), context)

        return rewrap(handler, decode_one, None)


def _limits_of(descriptor: Descriptor) -> Mapping[int, int]:
    """Return the largest number of items of a message's lists of messages, by field number."""
    return {
        field.number: most
        for field in descriptor.fields
        if field.is_repeated and field.type == FieldDescriptor.TYPE_MESSAGE and (most := most_items(field)) is not None
    }


def _cut(body: bytes, limits: Mapping[int, int]) -> bytes:
    """Return a message without what follows the first item that is one too many; validation refuses it for that item.

    Raises ServiceError when it has more fields than any valid message. See protobuf's encoding: a field is a tag, the
    number and the kind of its value, and the value.
    """
    left = dict(limits)
    at = 0
    for _ in range(sum(limits.values()) + OTHER_FIELDS):
        if at >= len(body):
            return body
        tag, at = _varint(body, at)
        number, kind = tag >> 3, tag & 7
        if kind == VARINT:
            _, at = _varint(body, at)
        elif kind == LENGTH_DELIMITED:
            length, at = _varint(body, at)
            at += length
        elif kind in FIXED:
            at += FIXED[kind]
        else:  # groups, which none of our messages has
            raise _no_message()
        if number in left:
            left[number] -= 1
            if left[number] < 0:
                return body[:at]
    raise ServiceError(Reason.VALIDATION_FAILED, "the request has more fields than any valid one has", field="request")


def _varint(body: bytes, at: int) -> tuple[int, int]:
    """Return the number at a position, and the position after it."""
    value = shift = 0
    while at < len(body) and shift < 64:
        byte = body[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
    raise _no_message()


def _no_message() -> ServiceError:
    return ServiceError(Reason.VALIDATION_FAILED, "the request is no message of this method", field="request")
