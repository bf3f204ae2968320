"""What is wrong with a field, in our words: protovalidate's change with its versions, and speak of regexes."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from buf.validate import validate_pb2
from google.protobuf.descriptor import FieldDescriptor

_UUID: Final = "must be a UUID, like 0198f0a0-7c55-7bd4-b9c1-5f1c4a1f6f0e"
# By the rule's id; {value} is the rule's own.
_WORDS: Final[Mapping[str, str]] = {
    "string.max_len": "must have at most {value:,} characters",
    "string.uuid": _UUID,
    "string.uuid_empty": _UUID,
    "string.not_contains": "must not contain NUL characters",  # the only use of that rule
    "repeated.max_items": "must have at most {value:,} items",
    "required": "must be given",
    "timestamp.gte_lt": "must be a time of this century, after 2019",
}
# A pattern says nothing to most people.
_PATTERNS: Final[Mapping[str, str]] = {
    "^[A-Za-z_]{0,32}$": "must have letters and underscores only, 32 at most",
    "^[A-Z_]{0,64}$": "must have capital letters and underscores only, 64 at most",
}


def in_words(violation: Any, message: Any) -> str:
    """Return what a value must be instead, given protovalidate's violation and the descriptor of the whole message.

    The words of a rule over a whole message are in the proto.
    """
    rule_id, value = str(violation.proto.rule_id), violation.rule_value
    if words := _WORDS.get(rule_id):
        return words.format(value=value)
    kind, _, rule = rule_id.partition(".")
    if rule in ("min_len", "min_items"):
        things = "characters" if rule == "min_len" else "items"
        words = "must not be empty" if value == 1 else f"must have at least {value:,} {things}"
    elif rule == "in":
        words = f"must be {_alternatives([one for one in value if one])}"
    elif rule_id == "string.not_in":
        words = f"must not be {_alternatives(list(value))}"
    elif rule == "pattern":
        words = _PATTERNS.get(value, "has a character that is not allowed there, or too many")
    elif kind in ("enum", "int32", "int64"):
        field, rules = _broken(violation.proto.field.elements, message)
        words = _names(field) if kind == "enum" else _range(getattr(rules, kind))
    else:
        words = str(violation.proto.message)
    return words


def _broken(path: Iterable[Any], message: Any) -> tuple[FieldDescriptor, Any]:
    """Return the field at the end of a path, and the rules of its value, or of its items where it leads to one."""
    for element in path:
        field = message.fields_by_name[element.field_name]
        if field.message_type is not None:
            message = field.message_type
    rules = field.GetOptions().Extensions[validate_pb2.field]
    return field, rules.repeated.items if element.subscript is not None else rules


def _names(field: FieldDescriptor) -> str:
    assert field.enum_type is not None
    names = [one.name for one in field.enum_type.values if not one.name.endswith("UNSPECIFIED")]
    return f"must be {_alternatives(names)}"


def _range(rules: Any) -> str:
    if rules.HasField("gte") and rules.HasField("lte"):
        return f"must be from {rules.gte:,} to {rules.lte:,}"
    return f"must be {rules.gte:,} or more" if rules.HasField("gte") else f"must be {rules.lte:,} or less"


def _alternatives(names: list[str]) -> str:
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))
