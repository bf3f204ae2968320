"""Natural batching: what comes in while a batch is under way becomes the next batch. Nothing ever waits
for company, so a lone item is as fast as without batching."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from servicekit.lifecycle import Worker

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Worker, Generic[Item, Result]):
    """Hands items to `handle` in batches of at most `limit`; `handle` returns a result, or an exception, each.

    An exception that `handle` raises fails its whole batch; one that it returns fails one item.
    """

    def __init__(
        self, handle: Callable[[Sequence[Item]], Awaitable[Sequence[Result | BaseException]]], *, limit: int
    ) -> None:
        super().__init__()
        self._handle = handle
        self._limit = limit
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._arrived = asyncio.Event()

    async def submit(self, item: Item) -> Result:
        """Have `item` handled with the next batch and return its result. Raises what `handle` raised for it."""
        done: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, done))
        self._arrived.set()
        return await done

    async def run(self) -> None:
        """Handle batches until cancelled."""
        while True:
            await self._arrived.wait()
            batch = [self._waiting.popleft() for _ in range(min(self._limit, len(self._waiting)))]
            if not self._waiting:
                self._arrived.clear()
            if batch:
                await self._settle(batch)

    async def stop(self) -> None:
        """End the run; whoever still waits is cancelled."""
        await super().stop()
        while self._waiting:
            self._waiting.popleft()[1].cancel()

    async def _settle(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        try:
            results: Sequence[Result | BaseException] = await self._handle([item for item, _ in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"{len(results)} results for {len(batch)} items")
        except asyncio.CancelledError:
            for _, done in batch:
                done.cancel()
            raise
        except Exception as error:  # handed to everyone who waits for this batch
            results = [error] * len(batch)
        for (_, done), result in zip(batch, results, strict=True):
            if done.done():
                continue
            if isinstance(result, BaseException):
                done.set_exception(result)
            else:
                done.set_result(result)
