"""Batcher and Conflator: what is handed on in batches."""

import asyncio
from collections.abc import Mapping, Sequence

from servicekit.background.batching import Batcher, Conflator, packed
from servicekit.background.tasks import running
from tests.support.waiting import eventually


class Gate:
    """Handles batches of numbers, one for each release of `let`."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.let = asyncio.Semaphore(0)

    async def handle(self, items: Sequence[int]) -> list[int | BaseException]:
        self.batches.append(list(items))
        await self.let.acquire()
        return [ValueError(str(item)) if item < 0 else item * 10 for item in items]


async def test_items_that_arrive_during_a_batch_become_the_next_batch_in_order() -> None:
    gate = Gate()
    batcher: Batcher[int, int] = Batcher(gate.handle, limit=3)
    async with running(batcher):
        first = batcher.submit(1)
        await eventually(lambda: gate.batches)
        others = [batcher.submit(n) for n in (2, 3, 4, 5)]
        await asyncio.sleep(0)
        for _ in range(3):
            gate.let.release()
        assert await asyncio.gather(first, *others) == [10, 20, 30, 40, 50]
    assert gate.batches == [[1], [2, 3, 4], [5]]


async def test_an_item_that_fails_fails_alone() -> None:
    gate = Gate()
    gate.let.release()
    batcher: Batcher[int, int] = Batcher(gate.handle, limit=10)
    results = asyncio.gather(*(batcher.submit(n) for n in (1, -2, 3)), return_exceptions=True)
    async with running(batcher):
        one, two, three = await results
    assert (one, three) == (10, 30)
    assert isinstance(two, ValueError)


async def test_a_batch_that_raises_fails_those_in_it_and_no_others() -> None:
    async def handle(items: Sequence[int]) -> list[int]:
        if 13 in items:
            raise LookupError("bad luck")
        return list(items)

    batcher: Batcher[int, int] = Batcher(handle, limit=2)
    results = asyncio.gather(*(batcher.submit(n) for n in (1, 13, 3)), return_exceptions=True)
    async with running(batcher):
        one, two, three = await results
    assert isinstance(one, LookupError)
    assert isinstance(two, LookupError)
    assert three == 3


async def test_too_few_results_fail_the_whole_batch() -> None:
    async def handle(items: Sequence[int]) -> list[int]:
        return list(items)[:-1]

    batcher: Batcher[int, int] = Batcher(handle, limit=10)
    results = asyncio.gather(*(batcher.submit(n) for n in (1, 2)), return_exceptions=True)
    async with running(batcher), asyncio.timeout(5):
        assert all(isinstance(result, RuntimeError) for result in await results)


async def test_a_batch_is_as_large_as_its_items_are_together() -> None:
    batches: list[Sequence[str]] = []

    async def handle(items: Sequence[str]) -> list[int]:
        batches.append(items)
        return [len(item) for item in items]

    batcher: Batcher[str, int] = Batcher(handle, limit=5, size=len)
    lengths = asyncio.gather(*(batcher.submit(item) for item in ("aa", "bbb", "c", "dddddddd", "ee")))
    async with running(batcher):
        assert await lengths == [2, 3, 1, 8, 2]
    assert batches == [["aa", "bbb"], ["c"], ["dddddddd"], ["ee"]]


def test_items_are_packed_in_order_into_batches_that_are_not_too_large() -> None:
    items = ["aa", "bbb", "c", "dddddddd", "ee"]
    assert list(packed(items, limit=5, size=len)) == [["aa", "bbb"], ["c"], ["dddddddd"], ["ee"]]
    assert list(packed([], limit=5, size=len)) == []


async def test_a_caller_that_gives_up_does_not_disturb_the_others() -> None:
    gate = Gate()
    batcher: Batcher[int, int] = Batcher(gate.handle, limit=10)
    async with running(batcher):
        tasks = [batcher.submit(n) for n in (1, 2)]
        await eventually(lambda: gate.batches == [[1, 2]])
        tasks[0].cancel()
        gate.let.release()
        assert await tasks[1] == 20
        assert tasks[0].cancelled()


async def test_a_stop_cancels_every_item_that_waits() -> None:
    gate = Gate()
    batcher: Batcher[int, int] = Batcher(gate.handle, limit=1)
    await batcher.start()
    tasks = [batcher.submit(n) for n in (1, 2, 3)]  # one under way, two waiting
    await eventually(lambda: gate.batches)
    await batcher.stop()
    done, waiting = await asyncio.wait(tasks, timeout=5)
    assert not waiting
    assert all(task.cancelled() for task in done)


class Collecting(Conflator[str, int]):
    """Collects batches; waits for `gate`, and fails `failures` times."""

    def __init__(self, *, limit: int = 100, failures: int = 0) -> None:
        super().__init__(limit=limit)
        self.batches: list[dict[str, int]] = []
        self.entered = asyncio.Event()
        self.gate = asyncio.Event()
        self._failures = failures

    async def handle(self, batch: Mapping[str, int]) -> None:
        self.entered.set()
        await self.gate.wait()
        if self._failures:
            self._failures -= 1
            raise RuntimeError("on purpose")
        self.batches.append(dict(batch))


async def test_what_is_being_handed_on_at_a_stop_is_not_lost() -> None:
    conflator = Collecting()
    async with running(conflator):
        conflator.put({"a": 1, "b": 1})
        await conflator.entered.wait()
        conflator.put({"a": 2})
        asyncio.get_running_loop().call_soon(conflator.gate.set)
    assert conflator.batches == [{"a": 2, "b": 1}]


async def test_of_what_waits_under_a_key_only_the_newest_is_handed_on() -> None:
    conflator = Collecting()
    async with running(conflator):
        conflator.put({"a": 1})
        await conflator.entered.wait()
        conflator.put({"a": 2, "b": 1})
        conflator.put({"c": 1})
        conflator.put({"a": 3})
        conflator.gate.set()
        await eventually(lambda: len(conflator.batches) == 2)
    assert conflator.batches == [{"a": 1}, {"a": 3, "b": 1, "c": 1}]


async def test_a_conflator_keeps_to_its_limit_and_hands_on_the_rest_at_its_stop() -> None:
    conflator = Collecting(limit=2)
    conflator.gate.set()
    await conflator.start()
    conflator.put({str(n): n for n in range(5)})
    await conflator.stop()
    assert [list(batch.values()) for batch in conflator.batches] == [[0, 1], [2, 3], [4]]


async def test_a_conflator_goes_on_after_a_batch_that_failed() -> None:
    conflator = Collecting(failures=1)
    conflator.gate.set()
    async with running(conflator):
        conflator.put({"lost": 1})
        await conflator.entered.wait()
        conflator.put({"kept": 1})
        await eventually(lambda: conflator.batches)
    assert conflator.batches == [{"kept": 1}]
