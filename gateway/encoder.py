"""Messages as JSON: ProtoJSON, but 64-bit numbers are numbers, and what is not set is there, as null or zero."""

import base64
import json
from collections.abc import Callable
from typing import Any, Final, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

_encode: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
_WELL_KNOWN: Final = ("google.protobuf.Timestamp", "google.protobuf.Duration")

Writer = Callable[[Any], Any]


def to_json(value: Any) -> bytes:
    """Return the JSON of a `value` of plain dicts, lists and scalars."""
    return _encode(value).encode()


class Encoder:
    """Turns messages into what `to_json` takes.

    Counts of products and sequences stay far below 2^53, so a JavaScript client loses nothing by having numbers.
    """

    def __init__(self) -> None:
        self._writers: dict[str, Writer] = {}  # by the message's full name; made at its first use

    def value(self, message: Message) -> Any:
        """Return the value of a message."""
        descriptor = cast(Descriptor, message.DESCRIPTOR)
        writer = self._writers.get(descriptor.full_name)
        if writer is None:
            self._writers[descriptor.full_name] = writer = self._writer(descriptor)
        return writer(message)

    def field(self, message: Message, name: str) -> Any:
        """Return the value of one field of a message; "": of all of it."""
        if not name:
            return self.value(message)
        field = cast(Descriptor, message.DESCRIPTOR).fields_by_name[name]
        if field.has_presence and not message.HasField(name):
            return None
        convert = self._converter(field)
        value = getattr(message, name)
        return convert(value) if convert else value

    def _writer(self, descriptor: Descriptor) -> Writer:
        if descriptor.full_name in _WELL_KNOWN:
            return lambda message: message.ToJsonString()
        fields = [
            (field.name, field.json_name, field.has_presence, self._converter(field)) for field in descriptor.fields
        ]

        def write(message: Any) -> dict[str, Any]:
            values: dict[str, Any] = {}
            for name, key, has_presence, convert in fields:
                if has_presence and not message.HasField(name):
                    values[key] = None
                else:
                    value = getattr(message, name)
                    values[key] = convert(value) if convert else value
            return values

        return write

    def _converter(self, field: FieldDescriptor) -> Writer | None:
        """Return what makes JSON of a field's value; None: the value is that already."""
        if field.message_type and field.message_type.GetOptions().map_entry:
            of_value = self._scalar(field.message_type.fields_by_name["value"]) or _same
            return lambda values: {_key(key): of_value(value) for key, value in values.items()}
        of_one = self._scalar(field)
        if field.is_repeated:
            return (lambda values: [of_one(value) for value in values]) if of_one else list
        return of_one

    def _scalar(self, field: FieldDescriptor) -> Writer | None:
        if field.message_type:
            return self.value
        if field.enum_type:
            names = {number: value.name for number, value in field.enum_type.values_by_number.items()}
            return lambda number: names.get(number, number)
        if field.type == FieldDescriptor.TYPE_BYTES:
            return lambda value: base64.b64encode(value).decode()
        return None


def _same(value: Any) -> Any:
    return value


def _key(key: Any) -> str:
    return str(key).lower() if isinstance(key, bool) else str(key)
