"""Deleting what is older than it is to be kept: now and then, a small batch at a time."""

import asyncio
import logging
from abc import abstractmethod
from collections.abc import AsyncIterator

from servicekit.background.tasks import Ticker

logger = logging.getLogger(__name__)

INTERVAL = 3600.0  # seconds between two rounds
# Seconds; and each batch is followed by a rest as long as itself, so that deleting takes half of a connection at most.
MIN_REST = 0.01


class Retention(Ticker):
    """Deletes what is too old: at the start, and every `interval` seconds."""

    def __init__(self, interval: float = INTERVAL) -> None:
        super().__init__(interval)

    @abstractmethod
    def batches(self) -> AsyncIterator[int]:
        """Delete a batch at each step, in a transaction of its own; yield how many things it deleted."""

    async def tick(self) -> None:
        """Delete all that is too old now."""
        clock = asyncio.get_running_loop().time
        deleted, began = 0, clock()
        async for count in self.batches():
            deleted += count
            await asyncio.sleep(max(MIN_REST, clock() - began))
            began = clock()
        if deleted:
            logger.info("%s: %d deleted, as they are older than what is kept", type(self).__name__, deleted)
