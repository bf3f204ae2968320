"""Long loops that let others have the event loop in between."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from typing import TypeVar

STINT = 0.01  # seconds

Item = TypeVar("Item")


async def breathing(items: Iterable[Item]) -> AsyncIterator[Item]:
    """Yield `items`, and turn to whatever else waits whenever the loop over them has taken STINT."""
    clock = time.perf_counter
    until = clock() + STINT
    for item in items:
        yield item
        if clock() > until:
            await asyncio.sleep(0)
            until = clock() + STINT
