"""The request message of an HTTP request: fields out of its path, its query and its body."""

import re
from collections.abc import Mapping
from typing import Any, Final

from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from gateway.problems import Problem
from gateway.query import parse
from gateway.routes import Route
from servicekit.ids import uuid7

# What json_format says first; the lines after it list all our fields.
_UNKNOWN: Final = re.compile(r'.*has no field named "([^"]*)" at "[^".]*\.?([^"]*)"')
_BAD: Final = re.compile(r"Failed to parse (\S+) field: (.*)")


def build(route: Route, path: Mapping[str, str], query: bytes, body: Any) -> Message:
    """Return the message. `path` has the values of the path's variables, `body` is parsed JSON. Raises Problem."""
    descriptor = route.rpc.input_type
    if route.body == "*":
        values = _object(body)
        taken = set(descriptor.fields_by_name)  # all of them are the body's
        if query:
            parse(descriptor, query, taken)
    else:
        values = parse(descriptor, query, {*path, route.body})
        if route.body:
            values[route.body] = body
    for name, text in path.items():
        field = descriptor.fields_by_name[name]
        for spelling in {field.name, field.json_name} & values.keys():
            if values.pop(spelling) != text:
                raise Problem.invalid(f"{spelling} is another in the body than in the path", field.json_name)
        values[name] = text
    message: Message = _fill(GetMessageClass(descriptor)(), values)
    _name_the_call(message)
    return message


def _object(body: Any) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise Problem.invalid("the body must be a JSON object")
    return dict(body)


def _fill(message: Message, values: dict[str, Any]) -> Message:
    try:
        return ParseDict(values, message)
    except ParseError as error:
        raise _explained(str(error).partition("\n")[0]) from None
    except (ValueError, TypeError, RecursionError):  # a surrogate alone, a number out of every range
        raise Problem.invalid("the body has a value that no field can have") from None


def _explained(words: str) -> Problem:
    """Return the problem that json_format's `words` are about."""
    if unknown := _UNKNOWN.match(words):
        path = ".".join(part for part in (unknown[2], unknown[1]) if part)
        return Problem.invalid(f"there is no field {path}", path)
    path = ""
    while bad := _BAD.match(words):  # a field within a field
        path, words = f"{path}.{bad[1]}" if path else bad[1], bad[2]
    return Problem.invalid(f"{path}: {words}" if path else words, path)


def _name_the_call(message: Any) -> None:
    """Give a call that makes something the id that tells its repetitions from other calls (AIP-155): the channel may
    send it again."""
    field = message.DESCRIPTOR.fields_by_name.get("request_id")
    if field is not None and not message.request_id:
        message.request_id = uuid7()
