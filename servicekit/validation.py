"""What is wrong with a message, by the rules in its proto: requests, jobs and events alike.

Looking stops early: a message may have as many violations as it has bytes.
"""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import islice
from typing import Any, NamedTuple

import protovalidate
from buf.validate import validate_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from servicekit.errors import Violation
from servicekit.printable import has_control_characters

MAX_VIOLATIONS = 20  # that a caller is shown; the details of a status have to fit into HTTP/2 headers
UNKNOWN_BYTES = 4_096  # of unknown fields up to which each is named

NO_NUL = "must not contain NUL characters"
NO_CONTROL = "must not contain control characters or line breaks"
UNKNOWN = "this server knows no field of that number; check its version"
# Identifiers end up in log lines, in error messages and at terminals.
_IDENTIFIER = re.compile(r"(^|_)(id|ids|key|hash)$")


def violations_of(message: Message) -> list[Violation]:
    """Return what is wrong with `message`, by field: at most MAX_VIOLATIONS, and one more if there are more.

    Besides the protos' own rules: no NUL characters (PostgreSQL cannot store them), no control characters in
    identifiers, and no fields that this server does not know (it would drop them, and do something else than was asked
    for). Of a list with too many items nothing else is looked at.
    """
    most = MAX_VIOLATIONS + 1
    if too_long := list(islice(_too_long(message, ""), most)):
        return too_long
    found = [Violation(_path(v), v.proto.message) for v in protovalidate.collect_violations(message)[:most]]
    found += islice(_malformed(message, ""), most - len(found))
    return found + list(islice(_unknown(message), most - len(found)))


def most_items(field: FieldDescriptor) -> int | None:
    """Return how many items a repeated field may have by its rule; None: any number."""
    rules = field.GetOptions().Extensions[validate_pb2.field].repeated
    return rules.max_items if rules.HasField("max_items") else None


def too_many(field: str, most: int) -> Violation:
    """Return the violation of a list that has more than `most` items."""
    return Violation(field, f"must have at most {most:,} items")


class _Field(NamedTuple):
    name: str
    is_text: bool
    is_message: bool
    is_repeated: bool
    is_identifier: bool
    most: int | None  # items


@cache
def _fields(descriptor: Descriptor) -> Mapping[int, _Field]:
    return {
        field.number: _Field(
            name=field.name,
            is_text=field.type == FieldDescriptor.TYPE_STRING,
            is_message=field.type == FieldDescriptor.TYPE_MESSAGE,
            is_repeated=field.is_repeated,
            is_identifier=bool(_IDENTIFIER.search(field.name)),
            most=most_items(field) if field.is_repeated else None,
        )
        for field in descriptor.fields
    }


def _too_long(message: Message, path: str) -> Iterator[Violation]:
    """Yield the lists that have too many items, at every depth, except in lists that have too many themselves."""
    known = _fields(message.DESCRIPTOR)
    for descriptor, value in message.ListFields():
        field = known[descriptor.number]
        if field.most is not None and len(value) > field.most:
            yield too_many(f"{path}{field.name}", field.most)
        elif field.is_message:
            for index, part in enumerate(value) if field.is_repeated else ((None, value),):
                yield from _too_long(part, _inside(path, field, index))


def _malformed(message: Message, path: str) -> Iterator[Violation]:
    """Yield the texts with characters that have no place in them."""
    known = _fields(message.DESCRIPTOR)
    for descriptor, value in message.ListFields():
        field = known[descriptor.number]
        if field.is_text:
            for index, text in enumerate(value) if field.is_repeated else ((None, value),):
                # Of printable texts, which is what nearly all are, nothing more is to be known.
                if not text.isprintable() and (problem := _problem(text, field)):
                    yield Violation(_inside(path, field, index).removesuffix("."), problem)
        elif field.is_message:
            for index, part in enumerate(value) if field.is_repeated else ((None, value),):
                yield from _malformed(part, _inside(path, field, index))


def _problem(text: str, field: _Field) -> str:
    if field.is_identifier:
        return NO_CONTROL if has_control_characters(text) else ""
    return NO_NUL if "\0" in text else ""


def _unknown(message: Message) -> Iterator[Violation]:
    size = message.ByteSize()
    known = type(message)()
    known.CopyFrom(message)
    known.DiscardUnknownFields()
    excess = size - known.ByteSize()
    if excess > UNKNOWN_BYTES:  # thousands of them may be in there, each of which would become an object
        yield Violation("", f"has {excess:,} bytes of fields that this server does not know; check its version")
    elif excess:
        yield from _named_unknown(message, "")


def _named_unknown(message: Message, path: str) -> Iterator[Violation]:
    for unknown in UnknownFieldSet(message):  # type: ignore[attr-defined]
        yield Violation(f"{path}#{unknown.field_number}", UNKNOWN)
    known = _fields(message.DESCRIPTOR)
    for descriptor, value in message.ListFields():
        field = known[descriptor.number]
        if field.is_message:
            for index, part in enumerate(value) if field.is_repeated else ((None, value),):
                yield from _named_unknown(part, _inside(path, field, index))


def _inside(path: str, field: _Field, index: int | None) -> str:
    return f"{path}{field.name}." if index is None else f"{path}{field.name}[{index}]."


def _path(violation: Any) -> str:
    path = ""
    for element in violation.proto.field.elements if violation.proto.field else ():
        path += f".{element.field_name}" if path else element.field_name
        if element.subscript is not None:
            path += f"[{element.subscript.value}]"
    # A rule over a whole message is named after the field it is about: "scope_id.required_for_run_type".
    return path or str(violation.proto.rule_id).partition(".")[0]
