"""Long loops that let others have the event loop in between."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from typing import TypeVar

STINT = 0.01  # seconds

Item = TypeVar("Item")


class Breath:
    """Says of a long loop when others are to have the event loop: whenever it has taken STINT.

    `if breath.is_due(): await breath.taken()`, for loops that are short nearly always; `breathing` for the others.
    """

    def __init__(self) -> None:
        self._until = time.perf_counter() + STINT

    def is_due(self) -> bool:
        """Return whether the loop has had the event loop for STINT."""
        return time.perf_counter() > self._until

    async def taken(self) -> None:
        """Turn to whatever else waits."""
        await asyncio.sleep(0)
        self._until = time.perf_counter() + STINT


async def breathing(items: Iterable[Item]) -> AsyncIterator[Item]:
    """Yield `items`, and turn to whatever else waits whenever the loop over them has taken STINT."""
    breath = Breath()
    for item in items:
        yield item
        if breath.is_due():
            await breath.taken()
