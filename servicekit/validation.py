"""What is wrong with a message, by the rules in its proto: requests, jobs and events alike."""

from collections.abc import Iterator
from typing import Any

import protovalidate
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from servicekit.errors import Violation

NO_NUL = "must not contain NUL characters"


def violations_of(request: Message) -> list[Violation]:
    """Return everything that is wrong with `request`, by field."""
    violations = [Violation(_path(v), v.proto.message) for v in protovalidate.collect_violations(request)]
    violations += _malformed(request, "")
    return violations


def _path(violation: Any) -> str:
    path = ""
    for element in violation.proto.field.elements if violation.proto.field else ():
        path += f".{element.field_name}" if path else element.field_name
        if element.subscript is not None:
            path += f"[{element.subscript.value}]"
    # A rule over a whole message is named after the field it is about: "scope_id.required_for_run_type".
    return path or str(violation.proto.rule_id).partition(".")[0]


def _malformed(message: Message, path: str) -> Iterator[Violation]:
    for unknown in UnknownFieldSet(message):  # type: ignore[attr-defined]
        yield Violation(
            f"{path}#{unknown.field_number}", "this server knows no field of that number; check its version"
        )
    for field, value in message.ListFields():
        if isinstance(value, str):
            if "\0" in value:
                yield Violation(f"{path}{field.name}", NO_NUL)
        elif field.type == FieldDescriptor.TYPE_STRING:
            for number, text in enumerate(value):
                if "\0" in text:
                    yield Violation(f"{path}{field.name}[{number}]", NO_NUL)
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            name = f"{path}{field.name}"
            for index, part in enumerate(value) if field.is_repeated else ((None, value),):
                yield from _malformed(part, f"{name}." if index is None else f"{name}[{index}].")
