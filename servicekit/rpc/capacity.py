"""A bound on how many things each key may have, without counting them each time."""

import asyncio
from collections.abc import Awaitable, Callable

SHARE = 10  # a key is counted again after so many additions, as part of its limit
RECOUNT = 1.0  # seconds for which a key counts as full once the rest of its capacity is used up
MAX_KEYS = 10_000  # that are remembered; the one that was counted longest ago is forgotten first


class Capacity:
    """Lets each key have about `limit` things. `count` returns how many a key has, and need not look beyond the second
    argument.

    A count says how much may be added without another one: a tenth of the limit, and not more than what is free. So the
    bound is approximate. A process sees what others add, and what is added and not committed yet, with its next count:
    it lets a key exceed the limit by a tenth at most. `now` is a clock in seconds that never goes back.
    """

    def __init__(self, limit: int, count: Callable[[str, int], Awaitable[int]], *, now: Callable[[], float]) -> None:
        self._limit = limit
        self._share = max(1, limit // SHARE)
        self._count = count
        self._now = now
        self._keys: dict[str, _Key] = {}

    async def take(self, key: str, number: int = 1) -> bool:
        """Take room for `number` things of `key`; False, and nothing taken, when it has not so much.

        Room that is taken and not used is free again after the next count. Raises what `count` raises.
        """
        found = self._keys.get(key)
        if found is None:
            found = self._keys[key] = _Key(self._share)
            self._forget_oldest()
        if found.left < number:
            await self._look(key, found, number)
        if found.left < number:
            return False
        found.left -= number
        return True

    def __len__(self) -> int:
        return len(self._keys)

    async def _look(self, key: str, found: "_Key", number: int) -> None:
        async with found.counting:  # one at a time; those that waited for it may find room
            if found.left >= number or found.full_until > self._now():
                return
            free = max(0, self._limit - await self._count(key, self._limit))
            wanted = max(self._share, number)
            found.left = min(free, wanted)
            if free < wanted:
                found.full_until = self._now() + RECOUNT
        if self._keys.pop(key, None) is found:
            self._keys[key] = found

    def _forget_oldest(self) -> None:
        if len(self._keys) > MAX_KEYS:
            del self._keys[next(iter(self._keys))]


class _Key:
    """What is known of one key."""

    __slots__ = ("counting", "full_until", "left")

    def __init__(self, left: int) -> None:
        self.left = left  # how many may be added before it is counted
        self.full_until = 0.0
        self.counting = asyncio.Lock()
