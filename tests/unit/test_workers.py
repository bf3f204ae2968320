"""Worker, Ticker and Batcher: everything that runs in the background."""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence

import pytest

from servicekit.background.batching import Batcher, Conflator, packed
from servicekit.background.tasks import Ticker, Worker, running
from servicekit.errors import Reason, ServiceError
from tests.support.waiting import eventually


class Counting(Worker):
    """Counts how often it runs now, and how often it ever did."""

    def __init__(self, *, cleanup: float = 0.0, failures: int = 0, error: Exception | None = None) -> None:
        super().__init__()
        self._error = error or RuntimeError("on purpose")
        self.now = self.ever = self.cleaned = self.most = 0
        self._cleanup = cleanup
        self._failures = failures

    async def run(self) -> None:
        self.now += 1
        self.ever += 1
        self.most = max(self.most, self.now)
        try:
            if self.ever <= self._failures:
                raise self._error
            await asyncio.Event().wait()
        finally:
            try:
                await asyncio.sleep(self._cleanup)
                self.cleaned += 1
            finally:
                self.now -= 1


async def test_stop_without_start_and_stop_twice_are_harmless() -> None:
    worker = Counting()
    await worker.stop()
    await worker.start()
    await eventually(lambda: worker.now)
    await worker.stop()
    await worker.stop()
    assert (worker.now, worker.ever) == (0, 1)


async def test_start_twice_runs_once() -> None:
    worker = Counting()
    await worker.start()
    await worker.start()
    await eventually(lambda: worker.now)
    assert worker.ever == 1
    await worker.stop()


async def test_a_stopped_worker_can_be_started_again() -> None:
    worker = Counting()
    for round_ in range(1, 4):
        await worker.start()
        await eventually(lambda expected=round_: worker.ever == expected)
        await worker.stop()
    assert worker.now == 0


async def test_races_of_start_and_stop_never_run_it_twice_and_leave_nothing() -> None:
    before = asyncio.all_tasks()
    for _ in range(50):
        worker = Counting()
        await asyncio.gather(worker.start(), worker.stop(), worker.start(), worker.stop(), worker.start())
        await asyncio.gather(*(worker.stop() for _ in range(3)))
        assert worker.now == 0
        assert worker.most <= 1
    assert asyncio.all_tasks() == before


async def test_a_second_stop_waits_for_the_cleanup_of_the_first_and_does_not_break_into_it() -> None:
    worker = Counting(cleanup=0.05)
    await worker.start()
    await eventually(lambda: worker.now)
    first = asyncio.create_task(worker.stop())
    await asyncio.sleep(0.01)
    await worker.stop()
    assert (worker.now, worker.cleaned) == (0, 1)
    await first


async def test_a_failed_run_is_logged_and_begins_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    worker = Counting(failures=2)
    async with running(worker):
        await eventually(lambda: worker.ever == 3 and worker.now == 1)
    levels = [record.levelno for record in caplog.records if "on purpose" in record.message]
    assert levels == [logging.WARNING, logging.DEBUG]  # the same failure within a minute


@pytest.mark.parametrize(
    ("error", "has_trace"),
    [
        (ConnectionError("gone"), False),
        (ServiceError(Reason.DATABASE_UNAVAILABLE, "gone"), False),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "a fault of ours that has a reason too"), True),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_an_outage_is_one_line_and_a_fault_has_its_trace(
    error: Exception, has_trace: bool, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Counting(failures=1, error=error)
    async with running(worker):
        await eventually(lambda: worker.ever == 2)
    (record,) = [record for record in caplog.records if record.message.startswith("Counting failed")]
    assert bool(record.exc_info) is has_trace


async def test_workers_stop_in_reverse_order_even_when_the_block_raises() -> None:
    order: list[str] = []

    class Named(Counting):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        async def start(self) -> None:
            order.append(f"+{self.name}")
            await super().start()

        async def stop(self) -> None:
            order.append(f"-{self.name}")
            await super().stop()

    with pytest.raises(ZeroDivisionError):
        async with running(Named("a"), Named("b")):
            raise ZeroDivisionError
    assert order == ["+a", "+b", "-b", "-a"]


class Clockwork(Ticker):
    def __init__(self, interval: float | None, *, failures: int = 0) -> None:
        super().__init__(interval)
        self.ticks = 0
        self._failures = failures

    async def tick(self) -> None:
        self.ticks += 1
        if self.ticks <= self._failures:
            raise RuntimeError("not yet")


async def test_a_ticker_ticks_at_once_then_at_its_interval() -> None:
    clockwork = Clockwork(0.01)
    async with running(clockwork):
        await eventually(lambda: clockwork.ticks >= 3)


async def test_a_ticker_can_be_stopped_at_the_very_moment_its_interval_ends() -> None:
    for _ in range(20):
        clockwork = Clockwork(0.001)
        await clockwork.start()
        await eventually(lambda ticker=clockwork: ticker.ticks)
        time.sleep(0.0012)  # noqa: ASYNC251  # the loop finds the timeout expired in the round in which we stop
        for _ in range(2):  # one round until the timer has fired, and not one more
            await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await clockwork.stop()


async def test_a_ticker_that_fails_at_the_start_goes_on() -> None:
    clockwork = Clockwork(3600, failures=1)
    async with running(clockwork):
        await eventually(lambda: clockwork.ticks == 2)


async def test_a_woken_ticker_ticks_now_also_when_woken_while_it_ticks() -> None:
    class SelfWaking(Clockwork):
        async def tick(self) -> None:
            await super().tick()
            if self.ticks == 1:
                self.wake()

    clockwork = SelfWaking(3600)
    async with running(clockwork):
        await eventually(lambda: clockwork.ticks == 2)
        clockwork.wake()
        await eventually(lambda: clockwork.ticks == 3)


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
