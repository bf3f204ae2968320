"""Messages as JSON Schema, with the limits that the protos set."""

from collections.abc import Collection
from typing import Any, Final

from buf.validate import validate_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from gateway.openapi.comments import Comments

Schema = dict[str, Any]

_SCALARS: Final[dict[int, Schema]] = {
    FieldDescriptor.CPPTYPE_STRING: {"type": "string"},
    FieldDescriptor.CPPTYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.CPPTYPE_INT32: {"type": "integer", "format": "int32"},
    FieldDescriptor.CPPTYPE_UINT32: {"type": "integer", "minimum": 0},
    FieldDescriptor.CPPTYPE_INT64: {"type": "integer", "format": "int64"},
    FieldDescriptor.CPPTYPE_UINT64: {"type": "integer", "minimum": 0},
    FieldDescriptor.CPPTYPE_DOUBLE: {"type": "number"},
    FieldDescriptor.CPPTYPE_FLOAT: {"type": "number"},
}
_LIMITS: Final = {
    "min_len": "minLength",
    "max_len": "maxLength",
    "pattern": "pattern",
    "gte": "minimum",
    "lte": "maximum",
}


class Schemas:
    """The schemas of messages. Those that are referred to are in `components`, by name.

    A message has two: in an answer each of its fields is there, in a request ("...Input") each may be left out.
    """

    def __init__(self, comments: Comments) -> None:
        self._comments = comments
        self.components: dict[str, Schema] = {}

    def answer(self, message: Descriptor) -> Schema:
        """Return the reference to a message in an answer."""
        return self._reference(message, is_input=False)

    def body(self, message: Descriptor, without: Collection[str]) -> Schema:
        """Return the schema of a request's body; the fields `without` are in its path."""
        return self._object(message, is_input=True, without=without)

    def field(self, field: FieldDescriptor, *, is_input: bool) -> Schema:
        """Return the schema of a field, with its comment."""
        schema = self._value(field, is_input=is_input)
        if not is_input and field.has_presence:
            schema = {"anyOf": [schema, {"type": "null"}]} if "$ref" in schema else {**schema, "type": _or_null(schema)}
            if "enum" in schema:
                schema["enum"] = [*schema["enum"], None]
        return self._described(schema, field.full_name)

    def _value(self, field: FieldDescriptor, *, is_input: bool) -> Schema:
        rules = field.GetOptions().Extensions[validate_pb2.field] if is_input else validate_pb2.FieldRules()
        if not field.is_repeated:
            return {**self._one(field, is_input=is_input), **_limits(rules)}
        items = {**self._one(field, is_input=is_input), **_limits(rules.repeated.items)}
        schema: Schema = {"type": "array", "items": items}
        if rules.repeated.HasField("min_items"):
            schema["minItems"] = rules.repeated.min_items
        if rules.repeated.HasField("max_items"):
            schema["maxItems"] = rules.repeated.max_items
        return schema

    def _one(self, field: FieldDescriptor, *, is_input: bool) -> Schema:
        if field.message_type:
            if field.message_type.full_name == "google.protobuf.Timestamp":
                return {"type": "string", "format": "date-time"}
            return self._reference(field.message_type, is_input=is_input)
        if field.enum_type:
            return self._enum(field.enum_type, is_input=is_input)
        return dict(_SCALARS[field.cpp_type])

    def _enum(self, enum: EnumDescriptor, *, is_input: bool) -> Schema:
        names = [value.name for value in enum.values if value.number or not is_input]
        return {"type": "string", "enum": names}

    def _reference(self, message: Descriptor, *, is_input: bool) -> Schema:
        name = message.full_name.removeprefix(f"{message.file.package}.") + ("Input" if is_input else "")
        if name not in self.components:
            self.components[name] = {}  # messages may contain each other
            self.components[name] = self._object(message, is_input=is_input)
        return {"$ref": f"#/components/schemas/{name}"}

    def _object(self, message: Descriptor, *, is_input: bool, without: Collection[str] = ()) -> Schema:
        fields = [field for field in message.fields if field.name not in without]
        schema: Schema = {
            "type": "object",
            "properties": {field.json_name: self.field(field, is_input=is_input) for field in fields},
            "additionalProperties": False,
        }
        required = [field.json_name for field in fields if not is_input or _is_required(field)]
        if required:
            schema["required"] = required
        return self._described(schema, message.full_name)

    def _described(self, schema: Schema, name: str) -> Schema:
        text = self._comments.of(name)
        return {**schema, "description": text} if text else schema


def _or_null(schema: Schema) -> list[str]:
    return [schema["type"], "null"]


def _limits(rules: validate_pb2.FieldRules) -> Schema:
    """Return the keywords for the rules of one value."""
    kind = rules.WhichOneof("type")
    found: Schema = {}
    if kind is None or kind == "repeated":
        return found
    of_kind = getattr(rules, kind)
    present = {field.name for field, _ in of_kind.ListFields()}
    for name, keyword in _LIMITS.items():
        if name in present:
            found[keyword] = getattr(of_kind, name)
    if kind == "string" and "uuid" in present:
        found["format"] = "uuid"
    if kind == "string" and "in" in present:
        found["enum"] = list(getattr(of_kind, "in"))
    return found


def _is_required(field: FieldDescriptor) -> bool:
    """Return whether a request without the field is refused."""
    rules = field.GetOptions().Extensions[validate_pb2.field]
    kind = rules.WhichOneof("type")
    if field.has_presence or kind is None:
        return bool(rules.required)
    of_kind = getattr(rules, kind)
    if kind == "string":
        choices = list(getattr(of_kind, "in"))
        return bool(of_kind.min_len or of_kind.uuid or (choices and "" not in choices))
    if kind == "enum":
        return 0 in of_kind.not_in
    return kind == "repeated" and bool(of_kind.min_items)
