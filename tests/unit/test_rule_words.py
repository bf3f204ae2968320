"""Each rule of the protos, broken: one style of ours, whatever protovalidate says."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from buf.validate import validate_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from playbooks.executor.v1 import catalog_service_pb2, executor_service_pb2, job_pb2
from playbooks.runs.v1 import run_pb2, runs_service_pb2

from servicekit.rpc.validation import broken_rules, violations_of

FILES = (catalog_service_pb2, executor_service_pb2, job_pb2, run_pb2, runs_service_pb2)
# What libraries say, and we do not.
THEIRS = re.compile(
    r"in list|\[|value is|\bvalue must|valid UUID|at least 1 |characters?\(s\)|item\(s\)|regex|pattern|greater than|"
    r"less than|defined enum|substring|validation|Value error|Field required|Input should",
)
OURS = re.compile(r"(must (be|have|not)\b|(scope_id|rules_hash) is required for )")


def messages(within: Any) -> Iterator[Descriptor]:
    for message in within.values():
        yield message
        yield from messages(message.nested_types_by_name)


def rules_of(field: FieldDescriptor) -> Any:
    return field.GetOptions().Extensions[validate_pb2.field]


def bad_scalars(field: FieldDescriptor, rules: Any) -> Iterator[Any]:
    """Values that break each rule of a field, or of a list's items."""
    text = rules.string
    if text.HasField("min_len"):
        yield ""
    if text.HasField("max_len"):
        yield "x" * (text.max_len + 1)
    if text.uuid:
        yield from ("7",) if rules.ignore else ("", "7")
    if getattr(text, "in"):
        yield "other"
    if text.not_in:
        yield text.not_in[0]
    if text.HasField("pattern"):
        yield from ("a b", "x" * 100)
    if text.HasField("not_contains"):
        yield text.not_contains
    if rules.enum.defined_only:
        yield 99
    if 0 in rules.enum.not_in:
        yield 0
    for number in (rules.int32, rules.int64):
        if number.HasField("gte"):
            yield number.gte - 1
        if number.HasField("lte"):
            yield number.lte + 1
    if rules.timestamp.HasField("gte"):
        yield type(rules.timestamp.gte)(seconds=1)
        yield type(rules.timestamp.gte)(seconds=rules.timestamp.lt.seconds)


def broken(message: Descriptor) -> Iterator[tuple[str, Message]]:
    """Messages of one type, each with a value that breaks a rule of one of its fields."""
    make = GetMessageClass(message)
    for field in message.fields:
        rules = rules_of(field)
        if rules.required:
            yield field.name, make()
        if rules.HasField("repeated"):
            for count in (
                (0, rules.repeated.max_items + 1) if rules.repeated.min_items else (rules.repeated.max_items + 1,)
            ):
                of_items = rules.repeated.items
                one = make()
                values = getattr(one, field.name)
                for _ in range(count):
                    values.add() if field.message_type else values.append("x")
                yield field.name, one
                for bad in bad_scalars(field, of_items) if count else ():
                    yield f"{field.name}[0]", make(**{field.name: [bad]})
        else:
            for bad in bad_scalars(field, rules):
                yield field.name, make(**{field.name: bad})
    for cel in message.GetOptions().Extensions[validate_pb2.message].cel:
        yield cel.id.partition(".")[0], make(run_type=2)


MESSAGES = {message.full_name: message for file in FILES for message in messages(file.DESCRIPTOR.message_types_by_name)}
BROKEN = [(name, field, bad) for name, message in MESSAGES.items() for field, bad in broken(message)]


def broken_by(find: Callable[[Message], Any], field: str, message: Message) -> list[str]:
    return [one.description for one in find(message) if one.field == field]


def test_rules_of_every_kind_are_broken() -> None:
    kinds = {
        f"{kind.name}.{rule.name}"
        for message in MESSAGES.values()
        for field in message.fields
        for kind, rules in rules_of(field).ListFields()
        if isinstance(rules, Message)
        for rule, _ in rules.ListFields()
    }
    # Another kind of rule in a proto needs words in rule_words.py, and a bad value here.
    assert kinds == {
        *("string.min_len", "string.max_len", "string.uuid", "string.in", "string.not_in", "string.pattern"),
        "string.not_contains",
        *("int32.gte", "int32.lte", "int64.gte", "int64.lte", "enum.defined_only", "enum.not_in"),
        *("repeated.min_items", "repeated.max_items", "repeated.items", "timestamp.gte", "timestamp.lt"),
    }
    assert len(BROKEN) > 150


@pytest.mark.parametrize("name", sorted({name for name, _, _ in BROKEN}))
def test_what_is_wrong_is_said_in_our_words(name: str) -> None:
    for of, field, bad in BROKEN:
        if of == name:
            said = broken_by(lambda one: broken_rules(one, limit=50), field, bad)
            said += broken_by(violations_of, field, bad)
            assert said, (field, str(bad)[:200])
            for words in said:
                assert OURS.match(words), (field, words)
                assert not THEIRS.search(words), (field, words)
