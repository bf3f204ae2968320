"""Query parameters: the fields of a request that neither its path nor its body has."""

import re
from collections.abc import Collection
from typing import Any, Final
from urllib.parse import parse_qsl

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from gateway.problems import Problem

MOST_PARAMETERS = 500
_WHOLE_NUMBER: Final = re.compile(r"-?[0-9]{1,20}")
_BOOLEANS: Final = {"true": True, "1": True, "false": False, "0": False}


def parse(descriptor: Descriptor, query: bytes, taken: Collection[str]) -> dict[str, Any]:
    """Return the fields of a message that the query string `query` has, for json_format.ParseDict.

    Names are spelled as JSON or as protos do, "rules.findReplace.find" is a field within fields, and one that is
    repeated may come several times. One that is empty and no text was left out. Raises Problem for a name that is
    unknown, or among the fields `taken` by path and body: a misspelt filter must not answer with everything.
    """
    values: dict[str, Any] = {}
    try:
        pairs = parse_qsl(query.decode(), keep_blank_values=True, errors="strict", max_num_fields=MOST_PARAMETERS)
    except ValueError:
        raise Problem.invalid(f"the query string is not UTF-8, or has over {MOST_PARAMETERS} parameters") from None
    for name, text in pairs:
        fields = _fields(descriptor, name)
        if not fields or fields[0].name in taken:
            raise _unknown(descriptor, name, taken)
        value = _value(fields[-1], name, text)
        if value is not None:
            _put(values, fields, value, name)
    return values


def _fields(descriptor: Descriptor | None, name: str) -> list[FieldDescriptor]:
    """Return the fields on the way to the one that `name` says; none: there is no such way."""
    found: list[FieldDescriptor] = []
    for part in name.split("."):
        if descriptor is None or (found and found[-1].is_repeated):
            return []
        field = descriptor.fields_by_name.get(part) or descriptor.fields_by_camelcase_name.get(part)
        if field is None:
            return []
        found.append(field)
        descriptor = field.message_type
    return [] if descriptor is not None else found


def _unknown(descriptor: Descriptor, name: str, taken: Collection[str]) -> Problem:
    known = [field.json_name for field in descriptor.fields if field.name not in taken]
    there_are = f"there are {', '.join(known)}" if known else "this route has none"
    shown = name if len(name) <= 100 else f"{name[:100]}…"
    return Problem.invalid(f"there is no query parameter {shown}; {there_are}", shown)


def _value(field: FieldDescriptor, name: str, text: str) -> Any:
    """Return the value that `text` means for a field; None: it was left out."""
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return text
    if not text:
        return None
    if field.enum_type:
        names = [value.name for value in field.enum_type.values if value.number]
        if text not in field.enum_type.values_by_name:
            raise Problem.invalid(f"{name} must be one of {', '.join(names)}", name)
        return text
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        if text.lower() not in _BOOLEANS:
            raise Problem.invalid(f"{name} must be true or false", name)
        return _BOOLEANS[text.lower()]
    if field.cpp_type in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        return text
    if not _WHOLE_NUMBER.fullmatch(text):
        raise Problem.invalid(f"{name} must be a whole number", name)
    return int(text)


def _put(values: dict[str, Any], fields: list[FieldDescriptor], value: Any, name: str) -> None:
    for field in fields[:-1]:
        values = values.setdefault(field.name, {})
    last = fields[-1]
    if last.is_repeated:
        values.setdefault(last.name, []).append(value)
    elif last.name in values:
        raise Problem.invalid(f"{name} is there twice", name)
    else:
        values[last.name] = value
