"""Validation of messages by the rules in their protos: requests, jobs and events alike.

A message may have as many violations as it has bytes, so the search stops early.
"""

import re
from collections.abc import Container, Iterator, Sequence
from functools import cache
from itertools import islice
from typing import Any, NamedTuple

import protovalidate
from buf.validate import validate_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from servicekit.errors import Reason, ServiceError, Violation
from servicekit.rpc.rule_words import in_words
from servicekit.telemetry.printable import has_control_characters

MAX_VIOLATIONS = 20  # that a caller gets; a status has to fit into HTTP/2 headers
UNKNOWN_BYTES = 4_096  # unknown fields are named one by one up to this size

NO_NUL = "must not contain NUL characters"
NO_CONTROL = "must not contain control characters or line breaks"
UNKNOWN = "this server knows no field of that number; check its version"
# Identifiers end up in log lines, in error messages and at terminals.
_IDENTIFIER = re.compile(r"(^|_)(id|ids|key|hash)$")


def violations_of(message: Message) -> list[Violation]:
    """Return the violations of `message`, by field: at most MAX_VIOLATIONS, and one more if there are more.

    Besides the protos' own rules: no NUL characters (PostgreSQL cannot store them), no control characters in
    identifiers, and no unknown fields (to drop them would mean to do something else than the caller asked for). When a
    list is too long, only that is reported.
    """
    if _is_plain(message) and not protovalidate.collect_violations(message) and not _unknown_bytes(message):
        return []  # nearly every message; to name violations takes longer than to see that there are none
    limit = MAX_VIOLATIONS + 1
    if too_long := list(islice(_too_long_lists(message, ""), limit)):
        return too_long
    found = broken_rules(message, limit=limit)
    found += islice(_malformed_texts(message, ""), limit - len(found))
    return found + list(islice(_unknown_fields(message), limit - len(found)))


def broken_rules(message: Message, *, limit: int = 1) -> list[Violation]:
    """Return up to `limit` violations of the protos' own rules.

    For messages between the services. Those are signed, may come from a newer version with more fields, and are too
    many for the other checks.
    """
    found = protovalidate.collect_violations(message)[:limit]
    return [Violation(_path(v), in_words(v, message.DESCRIPTOR)) for v in found]


def validation_error(violations: Sequence[Violation]) -> ServiceError:
    """Return the error (VALIDATION_FAILED) for a request with these violations: the first MAX_VIOLATIONS are in it."""
    shown = tuple(violations[:MAX_VIOLATIONS])
    names = ", ".join(dict.fromkeys(violation.field for violation in shown))
    more = f", and more: only the first {MAX_VIOLATIONS} are listed" if len(violations) > len(shown) else ""
    return ServiceError(
        Reason.VALIDATION_FAILED,
        f"{shown[0].field or 'request'}: {shown[0].description}"
        if len(violations) == 1
        else f"these fields are not valid: {names}{more}",
        violations=shown,
    )


def max_items(field: FieldDescriptor) -> int | None:
    """Return how many items a repeated field may have by its rule; None: any number."""
    rules = field.GetOptions().Extensions[validate_pb2.field].repeated
    return rules.max_items if rules.HasField("max_items") else None


def too_many(field: str, limit: int) -> Violation:
    """Return the violation of a list that has more than `limit` items."""
    return Violation(field, f"must have at most {limit:,} items")


class _Fields(NamedTuple):
    """The fields of a message type that are checked, by kind."""

    texts: tuple[tuple[str, bool], ...]  # name, whether it is an identifier
    text_lists: tuple[tuple[str, bool], ...]
    bounded_lists: tuple[tuple[str, int], ...]  # name, maximum number of items
    submessages: tuple[str, ...]  # those that have any of these fields themselves
    submessage_lists: tuple[str, ...]


@cache
def _fields(message: Descriptor) -> _Fields:
    texts = [field for field in message.fields if field.type == FieldDescriptor.TYPE_STRING]
    submessages = [
        field
        for field in message.fields
        if field.type == FieldDescriptor.TYPE_MESSAGE and any(_fields(field.message_type))
    ]
    return _Fields(
        texts=tuple((field.name, _is_identifier(field)) for field in texts if not field.is_repeated),
        text_lists=tuple((field.name, _is_identifier(field)) for field in texts if field.is_repeated),
        bounded_lists=tuple(
            (field.name, limit)
            for field in message.fields
            if field.is_repeated and (limit := max_items(field)) is not None
        ),
        submessages=tuple(field.name for field in submessages if not field.is_repeated),
        submessage_lists=tuple(field.name for field in submessages if field.is_repeated),
    )


def _is_identifier(field: FieldDescriptor) -> bool:
    return bool(_IDENTIFIER.search(field.name))


def _is_plain(message: Message) -> bool:
    """Return whether no list of a message is too long and all its texts are printable."""
    fields = _fields(message.DESCRIPTOR)
    for name, limit in fields.bounded_lists:
        if len(getattr(message, name)) > limit:
            return False
    for name, _ in fields.texts:
        if not getattr(message, name).isprintable():
            return False
    for name, _ in fields.text_lists:
        if not all(text.isprintable() for text in getattr(message, name)):
            return False
    for name in fields.submessages:
        if message.HasField(name) and not _is_plain(getattr(message, name)):
            return False
    return all(_is_plain(item) for name in fields.submessage_lists for item in getattr(message, name))


def _too_long_lists(message: Message, path: str) -> Iterator[Violation]:
    """Yield the lists with too many items, at every depth except inside lists that are too long themselves."""
    fields = _fields(message.DESCRIPTOR)
    too_long = {name: limit for name, limit in fields.bounded_lists if len(getattr(message, name)) > limit}
    for name, limit in too_long.items():
        yield too_many(f"{path}{name}", limit)
    for submessage, its_path in _submessages(message, path, without=too_long):
        yield from _too_long_lists(submessage, its_path)


def _malformed_texts(message: Message, path: str) -> Iterator[Violation]:
    """Yield the texts with forbidden characters, at every depth."""
    fields = _fields(message.DESCRIPTOR)
    for name, is_identifier in fields.texts:
        if problem := _problem(getattr(message, name), is_identifier):
            yield Violation(f"{path}{name}", problem)
    for name, is_identifier in fields.text_lists:
        for index, text in enumerate(getattr(message, name)):
            if problem := _problem(text, is_identifier):
                yield Violation(f"{path}{name}[{index}]", problem)
    for submessage, its_path in _submessages(message, path):
        yield from _malformed_texts(submessage, its_path)


def _submessages(message: Message, path: str, *, without: Container[str] = ()) -> Iterator[tuple[Message, str]]:
    """Yield each submessage with something to check, and the path to its fields; none of the lists in `without`."""
    fields = _fields(message.DESCRIPTOR)
    for name in fields.submessages:
        if message.HasField(name):
            yield getattr(message, name), f"{path}{name}."
    for name in fields.submessage_lists:
        if name not in without:
            for index, item in enumerate(getattr(message, name)):
                yield item, f"{path}{name}[{index}]."


def _problem(text: str, is_identifier: bool) -> str:
    if text.isprintable():  # nearly every text
        return ""
    if is_identifier:
        return NO_CONTROL if has_control_characters(text) else ""
    return NO_NUL if "\0" in text else ""


def _unknown_bytes(message: Message) -> int:
    known = type(message)()
    known.CopyFrom(message)
    known.DiscardUnknownFields()
    return message.ByteSize() - known.ByteSize()


def _unknown_fields(message: Message) -> Iterator[Violation]:
    excess = _unknown_bytes(message)
    if excess > UNKNOWN_BYTES:  # possibly thousands of fields, each of which would become an object
        yield Violation("", f"has {excess:,} bytes of fields that this server does not know; check its version")
    elif excess:
        yield from _named_unknown_fields(message, "")


def _named_unknown_fields(message: Message, path: str) -> Iterator[Violation]:
    for unknown in UnknownFieldSet(message):  # type: ignore[attr-defined]
        yield Violation(f"{path}#{unknown.field_number}", UNKNOWN)
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for index, submessage in enumerate(value) if field.is_repeated else ((None, value),):
                name = field.name if index is None else f"{field.name}[{index}]"
                yield from _named_unknown_fields(submessage, f"{path}{name}.")


def _path(violation: Any) -> str:
    path = ""
    for element in violation.proto.field.elements if violation.proto.field else ():
        path += f".{element.field_name}" if path else element.field_name
        if element.subscript is not None:
            path += f"[{element.subscript.value}]"
    return path
