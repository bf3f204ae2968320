"""Capacity: a bound that counts seldom."""

import asyncio

import pytest

from servicekit.rpc import capacity
from servicekit.rpc.capacity import RECOUNT, Capacity


class Shelf:
    """Things by key, and how often they were counted."""

    def __init__(self, limit: int) -> None:
        self.there: dict[str, int] = {}
        self.counts = 0
        self.seconds = 0.0
        self.error: Exception | None = None
        self.capacity = Capacity(limit, self.count, now=lambda: self.seconds)

    async def count(self, key: str, limit: int) -> int:
        self.counts += 1
        await asyncio.sleep(0)
        if self.error:
            raise self.error
        return min(limit, self.there.get(key, 0))

    async def add(self, key: str, number: int = 1) -> bool:
        if not await self.capacity.take(key, number):
            return False
        self.there[key] = self.there.get(key, 0) + number
        return True

    async def fill(self, key: str, tries: int) -> int:
        return sum([await self.add(key) for _ in range(tries)])


async def test_one_that_adds_one_by_one_is_stopped_at_the_limit_and_seldom_counted() -> None:
    shelf = Shelf(1_000)
    assert await shelf.fill("a", 1_500) == 1_000
    assert shelf.counts <= 11


async def test_a_full_key_is_counted_once_a_second_and_takes_what_has_become_free() -> None:
    shelf = Shelf(100)
    await shelf.fill("a", 101)
    counts = shelf.counts
    assert not any([await shelf.add("a") for _ in range(50)])
    assert shelf.counts <= counts + 1
    shelf.there["a"] -= 3
    shelf.seconds += RECOUNT + 0.1
    assert await shelf.fill("a", 10) == 3
    assert await shelf.fill("b", 5) == 5, "another key is not affected"


async def test_what_others_add_is_seen_after_a_tenth_of_the_limit() -> None:
    shelf = Shelf(1_000)
    await shelf.add("a")
    shelf.there["a"] = 1_000  # by another process
    assert await shelf.fill("a", 1_000) == 99


async def test_a_crowd_that_needs_a_count_shares_it() -> None:
    shelf = Shelf(1_000)
    await shelf.fill("a", 100)
    assert all(await asyncio.gather(*(shelf.add("a") for _ in range(100))))
    assert shelf.counts == 1


async def test_many_at_once_go_in_while_there_is_room_for_all_of_them() -> None:
    shelf = Shelf(10)
    assert await shelf.add("a", 7)
    assert not await shelf.add("a", 4)
    assert await shelf.add("a", 3)


async def test_a_count_that_fails_takes_nothing() -> None:
    shelf = Shelf(10)
    await shelf.add("a")
    shelf.error = RuntimeError("away")
    with pytest.raises(RuntimeError, match="away"):
        await shelf.add("a")
    shelf.error = None
    assert await shelf.add("a")


async def test_keys_that_were_counted_long_ago_are_forgotten() -> None:
    shelf = Shelf(10)
    for number in range(capacity.MAX_KEYS + 500):
        await shelf.add(str(number))
    assert len(shelf.capacity) == capacity.MAX_KEYS
