"""Requests that no client would send: bytes at random, bytes that were a request once, and fields with odd values."""

import random
from collections.abc import Iterator
from typing import Any, Final

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

TEXTS: Final = (
    "",
    " ",
    "0",
    "*",
    "missing_seo_title",
    "missing_seo_description",
    "0198f0a0-0000-7000-8000-000000000000",
    "00000000-0000-0000-0000-000000000000",
    "\0",
    "a\r\nb: c",
    "\x1b]52;c;AAAA\x07",
    "\u202egnp.exe",
    "\U0001f9d1\u200d\U0001f680" * 60,
    "=cmd|' /C calc'!A0",
    "'; DROP TABLE runs.runs; --",
    "../../etc/passwd",
    "%s%n{0}${jndi:ldap://x}",
    "[" * 400,
    "x" * 5_000,
)
NUMBERS: Final = (0, 1, -1, 2, 3, 50, 255, 10_001, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63), 2**32 - 1, 2**64 - 1)
BOUNDS: Final = {
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.TYPE_ENUM: (-(2**31), 2**31 - 1),
}
DEPTH = 4  # of messages in messages that are filled


class Fuzzer:
    """Makes requests, the same ones for a `seed`. Most are about `project`, so that more than its name is looked at."""

    def __init__(self, seed: int, project: str) -> None:
        self._random = random.Random(seed)
        self._project = project

    def requests(self, kind: Descriptor) -> Iterator[bytes]:
        """Yield requests of a method that takes messages of this kind, without end: of each sort one after another."""
        while True:
            body = self._filled(kind).SerializeToString()
            yield body
            yield self._mutated(body)
            yield self._random.randbytes(self._random.choice((0, 1, 3, 20, 300)))
            yield self._filled(kind, odd=0.1).SerializeToString()

    def _filled(self, kind: Descriptor, *, odd: float = 0.5, depth: int = DEPTH) -> Message:
        """Return a message with some of its fields set, a part of them, `odd`, to what makes no sense."""
        message: Any = message_factory.GetMessageClass(kind)()
        for field in kind.fields:
            if field.name == "project_id" and self._random.random() < 0.9:
                message.project_id = self._project
            elif field.type == FieldDescriptor.TYPE_MESSAGE:
                self._fill_messages(message, field, odd, depth)
            elif self._random.random() < 0.7:
                if field.is_repeated:
                    count = self._random.choice((1, 2, 150))
                    getattr(message, field.name).extend(self._value(field, odd) for _ in range(count))
                else:
                    setattr(message, field.name, self._value(field, odd))
        return message  # type: ignore[no-any-return]

    def _fill_messages(self, message: Any, field: FieldDescriptor, odd: float, depth: int) -> None:
        if not depth or self._random.random() < 0.3 or field.message_type.GetOptions().map_entry:
            return
        if not field.is_repeated:
            getattr(message, field.name).CopyFrom(self._filled(field.message_type, odd=odd, depth=depth - 1))
            return
        for _ in range(self._random.choice((1, 3, 20))):
            getattr(message, field.name).add().CopyFrom(self._filled(field.message_type, odd=odd, depth=depth - 1))

    def _value(self, field: FieldDescriptor, odd: float) -> Any:
        if field.type == FieldDescriptor.TYPE_STRING:
            return self._random.choice(TEXTS if self._random.random() < odd else TEXTS[4:7])
        if field.type == FieldDescriptor.TYPE_BYTES:
            return self._random.randbytes(self._random.choice((0, 1, 100)))
        if field.type == FieldDescriptor.TYPE_BOOL:
            return self._random.random() < 0.5
        if field.type in (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT):
            return self._random.choice((0.0, -1.0, float("inf"), float("nan")))
        low, high = BOUNDS[field.type]
        number = self._random.choice(NUMBERS if self._random.random() < odd else NUMBERS[1:6])
        return max(low, min(high, number))

    def _mutated(self, body: bytes) -> bytes:
        """Return bytes with some changed, left out, repeated or put in."""
        changed = bytearray(body)
        for _ in range(self._random.choice((1, 2, 8))):
            at = self._random.randrange(len(changed) + 1)
            what = self._random.randrange(4)
            if what == 0:
                changed[at:at] = self._random.randbytes(self._random.choice((1, 4)))
            elif what == 1:
                del changed[at : at + self._random.choice((1, 5))]
            elif what == 2 and at < len(changed):
                changed[at] ^= 1 << self._random.randrange(8)
            else:
                changed[at:at] = changed[: at % 50]
        return bytes(changed)
