"""Natural batching: items that arrive while a batch is processed become the next batch.

A batch lingers for a few turns of the event loop, as long as they bring more items. A lone item loses 30 microseconds.
A busy loop, where items keep arriving, makes few and large batches.

Where many callers each make one call after another, a batch answers a crowd of them at once, and they come back within
milliseconds. `max_linger` waits for them: without it the first to come back are a batch of their own.
"""

import asyncio
import logging
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import suppress
from itertools import islice
from typing import Generic, TypeVar

from servicekit.background.tasks import Worker

logger = logging.getLogger(__name__)

LINGER_TURNS = 4  # of the event loop without another item: from a call's arrival to its handler takes fewer
CROWD = 16  # items of a batch that are expected to come back together
LOOK = 0.001  # seconds between two looks at how many have come back; epoll waits in whole milliseconds
MAX_IDLE = 0.002  # seconds without anything to do after which a crowd is not waited for any more

Item = TypeVar("Item")
Result = TypeVar("Result")
Key = TypeVar("Key")
Value = TypeVar("Value")


class Batcher(Worker, Generic[Item, Result]):
    """Hands items to `handle` in batches; `handle` returns a result, or an exception, each.

    An exception that `handle` raises fails its whole batch; one that it returns fails one item. The `size` of a
    batch's items (None: each has 1) is at most `limit`, or there is only one of them.

    After a batch of CROWD items or more, the next one waits for as many, while they keep this thread busy and for at
    most `max_linger` seconds (0: never).
    """

    def __init__(
        self,
        handle: Callable[[Sequence[Item]], Awaitable[Sequence[Result | BaseException]]],
        *,
        limit: int,
        size: Callable[[Item], int] | None = None,
        max_linger: float = 0.0,
    ) -> None:
        super().__init__()
        self._handle = handle
        self._limit = limit
        self._size = size
        self._max_linger = max_linger
        self._last = 0  # items of the last batch
        self._crowd_is_back = asyncio.Event()  # as many wait as were in the last batch
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._arrived = asyncio.Event()

    def submit(self, item: Item) -> asyncio.Future[Result]:
        """Have `item` handled with the next batch; await its result, or the error that `handle` raised."""
        done: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, done))
        self._arrived.set()
        if len(self._waiting) >= self._last:
            self._crowd_is_back.set()
        return done

    async def run(self) -> None:
        """Handle batches until cancelled."""
        while True:
            await self._arrived.wait()
            if self._max_linger and self._last >= CROWD:
                await self._linger_for_crowd()
            await _linger(self._waiting, self._limit)
            batch = self._take()
            self._last = len(batch)
            if not self._waiting:
                self._arrived.clear()
            if batch:
                await self._process(batch)

    async def _linger_for_crowd(self) -> None:
        """Return when as many items wait as were handled last, this thread is idle, or time is up."""
        self._crowd_is_back.clear()
        started, worked = time.monotonic(), time.thread_time()
        waited = idle = 0.0
        while len(self._waiting) < self._last and idle < MAX_IDLE and waited < self._max_linger:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK):
                    await self._crowd_is_back.wait()
            waited = time.monotonic() - started
            idle = waited - (time.thread_time() - worked)

    async def stop(self) -> None:
        """End the run and cancel the items that wait."""
        await super().stop()
        while self._waiting:
            self._waiting.popleft()[1].cancel()

    def _take(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        if self._size is None:
            return [self._waiting.popleft() for _ in range(min(self._limit, len(self._waiting)))]
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        room = self._limit
        while self._waiting and (not batch or self._size(self._waiting[0][0]) <= room):
            item, done = self._waiting.popleft()
            batch.append((item, done))
            room -= self._size(item)
        return batch

    async def _process(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        try:
            results: Sequence[Result | BaseException] = await self._handle([item for item, _ in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"{len(results)} results for {len(batch)} items")
        except asyncio.CancelledError:
            for _, done in batch:
                done.cancel()
            raise
        except Exception as error:  # raised in every caller of this batch
            results = [error] * len(batch)
        for (_, done), result in zip(batch, results, strict=True):
            if done.done():
                continue
            if isinstance(result, BaseException):
                done.set_exception(result)
            else:
                done.set_result(result)


class Conflator(Worker, Generic[Key, Value]):
    """Hands on what is put, in batches of at most `limit`, and of each key only the newest value.

    No caller waits for it, and a batch whose handling raises is dropped: use it only for items that a sweeper finds
    again.
    `pause` seconds lie between two batches of what is not urgent.
    """

    def __init__(self, *, limit: int, pause: float = 0.0) -> None:
        super().__init__()
        self._limit = limit
        self._pause = pause
        self._waiting: dict[Key, Value] = {}
        self._arrived = asyncio.Event()

    @abstractmethod
    async def handle(self, batch: Mapping[Key, Value]) -> None:
        """Hand on one batch, in the order in which its keys came."""

    def put(self, items: Mapping[Key, Value]) -> None:
        """Have `items` handed on with the next batch."""
        if items:
            self._waiting.update(items)
            self._arrived.set()

    def waiting(self, key: Key) -> Value | None:
        """Return what waits under `key`, or None."""
        return self._waiting.get(key)

    async def run(self) -> None:
        """Hand on batches until cancelled."""
        while True:
            await self._arrived.wait()
            await _linger(self._waiting, self._limit)
            if batch := self._take():
                await self._hand_on(batch)
            if self._pause:
                await asyncio.sleep(self._pause)

    async def _hand_on(self, batch: dict[Key, Value]) -> None:
        try:
            await self.handle(batch)
        except asyncio.CancelledError:  # at a stop, which hands it on again: it may have failed halfway
            self._waiting = batch | self._waiting
            raise

    async def stop(self) -> None:
        """End the run, then hand on what waits."""
        await super().stop()
        while batch := self._take():
            try:
                await self.handle(batch)
            except Exception as error:
                logger.warning("%s stops with %d left: %s", type(self).__name__, len(self._waiting), error)
                return

    def _take(self) -> dict[Key, Value]:
        batch, self._waiting = self._waiting, {}
        if len(batch) > self._limit:
            self._waiting = dict(islice(batch.items(), self._limit, None))
            batch = dict(islice(batch.items(), self._limit))
        if not self._waiting:
            self._arrived.clear()
        return batch


def packed(items: Iterable[Item], *, limit: int, size: Callable[[Item], int]) -> Iterator[list[Item]]:
    """Divide `items`, in order, into batches whose size is at most `limit`, or of one item."""
    batch: list[Item] = []
    room = limit
    for item in items:
        needed = size(item)
        if batch and needed > room:
            yield batch
            batch, room = [], limit
        batch.append(item)
        room -= needed
    if batch:
        yield batch


async def _linger(waiting: Sized, limit: int) -> None:
    """Return when a few turns of the loop bring no more items, or as many wait as may be handled at once."""
    counted = 0
    while counted < len(waiting) < limit:
        counted = len(waiting)
        for _ in range(LINGER_TURNS):
            await asyncio.sleep(0)
