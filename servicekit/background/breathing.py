"""Long loops that yield to other tasks."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from typing import TypeVar

STINT = 0.01  # seconds without a break

Item = TypeVar("Item")


class Breath:
    """Says when a long loop should let other tasks run: whenever it has taken STINT.

    `if breath.is_due(): await breath.taken()`, for loops that are short nearly always; `breathing` for the others.
    """

    def __init__(self) -> None:
        self._until = time.perf_counter() + STINT

    def is_due(self) -> bool:
        """Return whether STINT is over."""
        return time.perf_counter() > self._until

    async def taken(self) -> None:
        """Let other tasks run."""
        await asyncio.sleep(0)
        self._until = time.perf_counter() + STINT


async def breathing(items: Iterable[Item]) -> AsyncIterator[Item]:
    """Yield `items`, and let other tasks run whenever the loop over them has taken STINT."""
    breath = Breath()
    for item in items:
        yield item
        if breath.is_due():
            await breath.taken()
