"""What is wrong with a message, by the rules in its proto: requests, jobs and events alike.

Looking stops early: a message may have as many violations as it has bytes.
"""

import re
from collections.abc import Iterator
from functools import cache
from itertools import islice
from typing import Any, NamedTuple

import protovalidate
from buf.validate import validate_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from servicekit.errors import Violation
from servicekit.telemetry.printable import has_control_characters

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
    if _is_plain(message) and not protovalidate.collect_violations(message) and not _unknown_bytes(message):
        return []  # nearly every message; saying what is wrong takes longer than knowing that nothing is
    most = MAX_VIOLATIONS + 1
    if too_long := list(islice(_too_long(message, ""), most)):
        return too_long
    found = broken_rules(message, most=most)
    found += islice(_malformed(message, ""), most - len(found))
    return found + list(islice(_unknown(message), most - len(found)))


def broken_rules(message: Message, *, most: int = 1) -> list[Violation]:
    """Return up to `most` violations of the protos' own rules.

    For messages between the services: they are signed, may come from a newer version, with fields that this one does
    not know, and are too many for a closer look.
    """
    return [Violation(_path(v), v.proto.message) for v in protovalidate.collect_violations(message)[:most]]


def most_items(field: FieldDescriptor) -> int | None:
    """Return how many items a repeated field may have by its rule; None: any number."""
    rules = field.GetOptions().Extensions[validate_pb2.field].repeated
    return rules.max_items if rules.HasField("max_items") else None


def too_many(field: str, most: int) -> Violation:
    """Return the violation of a list that has more than `most` items."""
    return Violation(field, f"must have at most {most:,} items")


class _Fields(NamedTuple):
    """The fields of a message that are looked at, by kind; those of submessages only where there is something in them
    to look at."""

    texts: tuple[tuple[str, bool], ...]  # name, whether it is an identifier
    text_lists: tuple[tuple[str, bool], ...]
    parts_with_texts: tuple[str, ...]
    part_lists_with_texts: tuple[str, ...]
    bounded_lists: tuple[tuple[str, int], ...]  # name, most items
    parts_with_lists: tuple[str, ...]
    part_lists_with_lists: tuple[str, ...]
    parts: tuple[str, ...]  # with texts or lists
    part_lists: tuple[str, ...]


@cache
def _fields(message: Descriptor) -> _Fields:
    texts = [field for field in message.fields if field.type == FieldDescriptor.TYPE_STRING]
    parts = [field for field in message.fields if field.type == FieldDescriptor.TYPE_MESSAGE]
    with_texts = [field for field in parts if _fields(field.message_type)[:4] != _NOTHING[:4]]
    with_lists = [field for field in parts if _fields(field.message_type)[4:7] != _NOTHING[4:7]]
    return _Fields(
        texts=tuple((field.name, _is_identifier(field)) for field in texts if not field.is_repeated),
        text_lists=tuple((field.name, _is_identifier(field)) for field in texts if field.is_repeated),
        parts_with_texts=tuple(field.name for field in with_texts if not field.is_repeated),
        part_lists_with_texts=tuple(field.name for field in with_texts if field.is_repeated),
        bounded_lists=tuple(
            (field.name, most)
            for field in message.fields
            if field.is_repeated and (most := most_items(field)) is not None
        ),
        parts_with_lists=tuple(field.name for field in with_lists if not field.is_repeated),
        part_lists_with_lists=tuple(field.name for field in with_lists if field.is_repeated),
        parts=tuple(field.name for field in parts if field in [*with_texts, *with_lists] and not field.is_repeated),
        part_lists=tuple(field.name for field in parts if field in [*with_texts, *with_lists] and field.is_repeated),
    )


_NOTHING = _Fields((), (), (), (), (), (), (), (), ())


def _is_identifier(field: FieldDescriptor) -> bool:
    return bool(_IDENTIFIER.search(field.name))


def _is_plain(message: Message) -> bool:
    """Tell whether no list of a message is too long and all of its texts are printable."""
    fields = _fields(message.DESCRIPTOR)
    for name, most in fields.bounded_lists:
        if len(getattr(message, name)) > most:
            return False
    for name, _ in fields.texts:
        if not getattr(message, name).isprintable():
            return False
    for name, _ in fields.text_lists:
        if not all(text.isprintable() for text in getattr(message, name)):
            return False
    for name in fields.parts:
        if message.HasField(name) and not _is_plain(getattr(message, name)):
            return False
    return all(_is_plain(part) for name in fields.part_lists for part in getattr(message, name))


def _too_long(message: Message, path: str) -> Iterator[Violation]:
    """Yield the lists that have too many items, at every depth, except in lists that have too many themselves."""
    fields = _fields(message.DESCRIPTOR)
    too_long = [(name, most) for name, most in fields.bounded_lists if len(getattr(message, name)) > most]
    for name, most in too_long:
        yield too_many(f"{path}{name}", most)
    for name in fields.parts_with_lists:
        if message.HasField(name):
            yield from _too_long(getattr(message, name), f"{path}{name}.")
    for name in fields.part_lists_with_lists:
        if name not in dict(too_long):
            for index, part in enumerate(getattr(message, name)):
                yield from _too_long(part, f"{path}{name}[{index}].")


def _malformed(message: Message, path: str) -> Iterator[Violation]:
    """Yield the texts with characters that have no place in them."""
    fields = _fields(message.DESCRIPTOR)
    for name, is_identifier in fields.texts:
        text = getattr(message, name)
        # Of printable texts, which is what nearly all are, nothing more is to be known.
        if not text.isprintable() and (problem := _problem(text, is_identifier)):
            yield Violation(f"{path}{name}", problem)
    for name, is_identifier in fields.text_lists:
        for index, text in enumerate(getattr(message, name)):
            if not text.isprintable() and (problem := _problem(text, is_identifier)):
                yield Violation(f"{path}{name}[{index}]", problem)
    for name in fields.parts_with_texts:
        if message.HasField(name):
            yield from _malformed(getattr(message, name), f"{path}{name}.")
    for name in fields.part_lists_with_texts:
        for index, part in enumerate(getattr(message, name)):
            yield from _malformed(part, f"{path}{name}[{index}].")


def _problem(text: str, is_identifier: bool) -> str:
    if is_identifier:
        return NO_CONTROL if has_control_characters(text) else ""
    return NO_NUL if "\0" in text else ""


def _unknown_bytes(message: Message) -> int:
    known = type(message)()
    known.CopyFrom(message)
    known.DiscardUnknownFields()
    return message.ByteSize() - known.ByteSize()


def _unknown(message: Message) -> Iterator[Violation]:
    excess = _unknown_bytes(message)
    if excess > UNKNOWN_BYTES:  # thousands of them may be in there, each of which would become an object
        yield Violation("", f"has {excess:,} bytes of fields that this server does not know; check its version")
    elif excess:
        yield from _named_unknown(message, "")


def _named_unknown(message: Message, path: str) -> Iterator[Violation]:
    for unknown in UnknownFieldSet(message):  # type: ignore[attr-defined]
        yield Violation(f"{path}#{unknown.field_number}", UNKNOWN)
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for index, part in enumerate(value) if field.is_repeated else ((None, value),):
                name = field.name if index is None else f"{field.name}[{index}]"
                yield from _named_unknown(part, f"{path}{name}.")


def _path(violation: Any) -> str:
    path = ""
    for element in violation.proto.field.elements if violation.proto.field else ():
        path += f".{element.field_name}" if path else element.field_name
        if element.subscript is not None:
            path += f"[{element.subscript.value}]"
    # A rule over a whole message is named after the field it is about: "scope_id.required_for_run_type".
    return path or str(violation.proto.rule_id).partition(".")[0]
