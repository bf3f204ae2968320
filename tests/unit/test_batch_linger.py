"""A batch lingers for the crowd of callers that the last batch answered."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from servicekit.background.batching import CROWD, LINGER_TURNS, Batcher
from servicekit.background.tasks import running

FOR_EVER = 60.0


class Sizes:
    """Answers at once, and keeps the sizes of the batches."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    async def handle(self, items: Sequence[int]) -> list[int]:
        self.sizes.append(len(items))
        return list(items)


@asynccontextmanager
async def busy_thread() -> AsyncIterator[None]:
    async def spin() -> None:
        while True:  # noqa: ASYNC110 - it is here to keep the thread busy
            await asyncio.sleep(0)

    spinning = asyncio.create_task(spin())
    try:
        yield
    finally:
        spinning.cancel()


def crowd(batcher: Batcher[int, int], size: int = CROWD) -> asyncio.Future[list[int]]:
    return asyncio.gather(*(batcher.submit(number) for number in range(size)))


async def test_a_crowd_that_comes_back_one_by_one_is_one_batch() -> None:
    sizes = Sizes()
    batcher: Batcher[int, int] = Batcher(sizes.handle, limit=100, max_linger=FOR_EVER)
    async with running(batcher), busy_thread(), asyncio.timeout(50):
        # A neighbour of this machine can make the thread look idle, but not each time.
        while sizes.sizes[-2:] != [CROWD, CROWD]:
            await crowd(batcher)
            again = []
            for number in range(CROWD):
                again.append(batcher.submit(number))
                for _ in range(2 * LINGER_TURNS):  # longer than a batch lingers for more without a crowd
                    await asyncio.sleep(0)
            await asyncio.gather(*again)


async def test_a_batch_does_not_linger_for_absent_callers_while_the_thread_is_idle() -> None:
    batcher: Batcher[int, int] = Batcher(Sizes().handle, limit=100, max_linger=FOR_EVER)
    async with running(batcher), asyncio.timeout(50):
        await crowd(batcher)
        await batcher.submit(1)


async def test_a_crowd_that_stays_away_is_waited_for_no_longer_than_told() -> None:
    batcher: Batcher[int, int] = Batcher(Sizes().handle, limit=100, max_linger=0.01)
    async with running(batcher), busy_thread(), asyncio.timeout(50):
        await crowd(batcher)
        await batcher.submit(1)


async def test_after_a_small_batch_nobody_waits() -> None:
    batcher: Batcher[int, int] = Batcher(Sizes().handle, limit=100, max_linger=FOR_EVER)
    async with running(batcher), busy_thread(), asyncio.timeout(50):
        await crowd(batcher, CROWD - 1)
        await batcher.submit(1)
