"""Long loops that yield to other tasks."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from typing import TypeVar

STINT = 0.01  # seconds without a break

Item = TypeVar("Item")


async def breathing(items: Iterable[Item]) -> AsyncIterator[Item]:
    """Yield `items`, and let other tasks run whenever the loop over them has taken STINT."""
    clock = time.perf_counter
    until = clock() + STINT
    for item in items:
        yield item
        if clock() > until:
            await asyncio.sleep(0)
            until = clock() + STINT
