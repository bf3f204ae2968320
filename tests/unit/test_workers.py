"""Worker and Ticker: what runs in the background."""

import asyncio
import logging
import time

import pytest

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
