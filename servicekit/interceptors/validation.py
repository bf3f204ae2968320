"""Decodes every request and checks it against the rules in its proto before a handler sees it."""

from collections.abc import Iterator
from typing import Any

import protovalidate
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from servicekit.errors import Reason, ServiceError, Violation
from servicekit.interceptors.base import Call, CallInterceptor, Context, behaviour_of, like

NO_NUL = "must not contain NUL characters"


class Validation(CallInterceptor):
    """Refuses requests that break a rule, with the name of each field that does.

    Besides the protos' own rules: no NUL characters (PostgreSQL cannot store them) and no fields that this
    server does not know (it would drop them, and do something else than was asked for).
    """

    async def surround(self, call: Call, method: str, request: Message, context: Context) -> Message | None:
        """Serve the call if its request is valid."""
        if violations := violations_of(request):
            names = ", ".join(dict.fromkeys(violation.field for violation in violations))
            first = violations[0]
            raise ServiceError(
                Reason.VALIDATION_FAILED,
                f"{first.field}: {first.description}"
                if len(violations) == 1
                else f"these fields are not valid: {names}",
                violations=tuple(violations),
            )
        return await call(request, context)

    def wrap(self, handler: Any, method: str) -> Any:
        """Decode here, and not before all interceptors: gRPC's own answer to bad bytes has no ErrorInfo."""
        check = behaviour_of(super().wrap(handler, method))

        async def decode_and_check(body: bytes, context: Context) -> Message | None:
            try:
                request = handler.request_deserializer(body)
            except DecodeError as error:
                raise ServiceError(
                    Reason.VALIDATION_FAILED, f"the request cannot be decoded: {error}", field="request"
                ) from error
            return await check(request, context)

        return like(handler, decode_and_check, None)


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
