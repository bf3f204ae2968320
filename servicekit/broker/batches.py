"""Messages whose body is a batch: its good items, and what cannot be read."""

from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

import protovalidate
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from servicekit.background.breathing import Breath
from servicekit.broker.consumer import DeadLetter
from servicekit.rpc.validation import broken_rules, max_items

ALONE = 20  # bad items of a message that are dead letters of their own; the others go into one
SHOWN = 3  # violations in a reason
TOGETHER = 64_000  # bytes of messages that are checked at once: 2 ms or so

Item = TypeVar("Item", bound=Message)


class BatchReader(Generic[Item]):
    """Reads batches: messages of the type `batch`, whose only field lists items; its rule says how many.

    `name` says of an item what it is about, for the reasons. Items must keep the rules in their proto. A field that is
    not known here is no fault: the version of a message says whether it can be read.
    """

    def __init__(self, batch: type[Message], *, name: Callable[[Item], str]) -> None:
        field: FieldDescriptor
        (field,) = batch.DESCRIPTOR.fields  # type: ignore[assignment]  # its other type is the same class
        limit = max_items(field)
        if limit is None:
            raise ValueError(f"{field.full_name} has no rule for the number of its items")
        self._batch = batch
        self._field = field.name
        self._limit = limit
        self._name = name

    async def read(self, bodies: Sequence[bytes]) -> tuple[Sequence[Item], list[DeadLetter]]:
        """Return the good items, in order, and what else there is: of a batch with a bad item only that."""
        if sum(map(len, bodies)) <= TOGETHER and (items := self._all_good(bodies)) is not None:
            return items, []  # nearly always
        good: list[Item] = []
        dead: list[DeadLetter] = []
        breath = Breath()
        for group in _together(bodies):
            if breath.is_due():
                await breath.taken()
            if (items := self._all_good(group)) is not None:
                good += items
                continue
            for body in group:
                found, refused = self._sorted_out(body)
                good += found
                dead += refused
        return good, dead

    def refused(self, items: Sequence[tuple[Item, str]]) -> list[DeadLetter]:
        """Return dead letters for items that are refused, with the reason for each. There are never many."""
        if not items:
            return []
        alone = [DeadLetter(self._packed([item]), f"{self._name(item)}: {why}") for item, why in items[:ALONE]]
        if rest := [item for item, _ in items[ALONE:]]:
            first = f"{self._name(rest[0])}: {items[ALONE][1]}"
            alone.append(DeadLetter(self._packed(rest), f"{len(rest)} {self._field}; the first one: {first}"))
        return alone

    def _all_good(self, group: Sequence[bytes]) -> Sequence[Item] | None:
        """Return the items of messages in which nothing is wrong, else None. Checking all at once takes half the time
        of checking each."""
        whole = self._batch()
        items: Sequence[Item] = getattr(whole, self._field)
        before = 0
        for body in group:
            try:
                whole.MergeFromString(body)
            except DecodeError:
                return None
            if len(items) == before:  # it is empty
                return None
            before = len(items)
        # One item alone costs less to check than as part of a list.
        checked = items[0] if before == 1 else whole
        if before > self._limit or protovalidate.collect_violations(checked, fail_fast=True):
            return None
        return items

    def _sorted_out(self, body: bytes) -> tuple[Sequence[Item], list[DeadLetter]]:
        """Return the good items of one message, and what else is in it."""
        try:
            batch = self._batch.FromString(body)
        except DecodeError as error:
            return [], [DeadLetter(body, str(error))]
        items: Sequence[Item] = getattr(batch, self._field)
        if not 1 <= len(items) <= self._limit:
            return [], [DeadLetter(body, f"it has {len(items)} {self._field}; 1 to {self._limit} are allowed")]
        if not protovalidate.collect_violations(batch, fail_fast=True):
            return items, []
        checked = [(item, flaw_of(item)) for item in items]
        return [item for item, flaw in checked if not flaw], self.refused([one for one in checked if one[1]])

    def _packed(self, items: Sequence[Item]) -> bytes:
        return self._batch(**{self._field: items}).SerializeToString()


def flaw_of(item: Message) -> str:
    """Return which of its proto's rules an item breaks, in short; "" when it keeps them."""
    if not protovalidate.collect_violations(item, fail_fast=True):
        return ""
    return "; ".join(f"{violation.field}: {violation.description}" for violation in broken_rules(item, limit=SHOWN))


def _together(bodies: Sequence[bytes]) -> Iterator[list[bytes]]:
    """Yield `bodies` in groups, in order: of TOGETHER bytes, or one message alone."""
    group: list[bytes] = []
    size = 0
    for body in bodies:
        if group and size + len(body) > TOGETHER:
            yield group
            group, size = [], 0
        group.append(body)
        size += len(body)
    if group:
        yield group
