"""Messages whose body is a batch: its good items, and what cannot be read."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import protovalidate
from google.protobuf.message import DecodeError, Message

from servicekit.broker.consumer import DeadLetter
from servicekit.validation import violations_of

ALONE = 20  # bad items of a message that are dead letters of their own; the others go into one
SHOWN = 3  # violations in a reason
BREATH = 100_000  # bytes of messages after which others get the event loop: about 5 ms

Item = TypeVar("Item", bound=Message)


class BatchReader(Generic[Item]):
    """Reads batches: messages of the type `batch`, whose only field lists up to `limit` items.

    `name` says of an item what it is about, for the reasons. Items must keep the rules in their proto. A field that is
    not known here is no fault: the version of a message says whether it can be read.
    """

    def __init__(self, batch: type[Message], *, limit: int, name: Callable[[Item], str]) -> None:
        self._batch = batch
        self._limit = limit
        self._name = name
        (self._field,) = batch.DESCRIPTOR.fields_by_name

    async def read(self, bodies: Sequence[bytes]) -> tuple[list[Item], list[DeadLetter]]:
        """Return the good items, in order, and what else there is: of a batch with a bad item only that."""
        good: list[Item] = []
        dead: list[DeadLetter] = []
        looked_at = 0
        for body in bodies:
            if looked_at > BREATH:
                looked_at = 0
                await asyncio.sleep(0)
            looked_at += len(body)
            try:
                batch = self._batch.FromString(body)
            except DecodeError as error:
                dead.append(DeadLetter(body, str(error)))
                continue
            items: Sequence[Item] = getattr(batch, self._field)
            if not 1 <= len(items) <= self._limit:
                dead.append(DeadLetter(body, f"it has {len(items)} {self._field}; 1 to {self._limit} are allowed"))
            elif not protovalidate.collect_violations(batch, fail_fast=True):  # for all at once it takes half the time
                good += items
            else:
                checked = [(item, _flaw(item)) for item in items]
                good += [item for item, flaw in checked if not flaw]
                dead += self.refused([(item, flaw) for item, flaw in checked if flaw])
        return good, dead

    def refused(self, items: Sequence[tuple[Item, str]]) -> list[DeadLetter]:
        """Return dead letters for items that are refused, with the reason for each. There are never many."""
        alone = [DeadLetter(self._packed([item]), f"{self._name(item)}: {why}") for item, why in items[:ALONE]]
        if rest := [item for item, _ in items[ALONE:]]:
            first = f"{self._name(rest[0])}: {items[ALONE][1]}"
            alone.append(DeadLetter(self._packed(rest), f"{len(rest)} {self._field}; the first one: {first}"))
        return alone

    def _packed(self, items: Sequence[Item]) -> bytes:
        return self._batch(**{self._field: items}).SerializeToString()


def _flaw(item: Message) -> str:
    if not protovalidate.collect_violations(item, fail_fast=True):
        return ""
    return "; ".join(f"{violation.field}: {violation.description}" for violation in violations_of(item)[:SHOWN])
