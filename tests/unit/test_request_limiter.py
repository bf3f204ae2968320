import asyncio

import pytest

from executor_service.ai.limiter import RequestLimiter


class Work:
    """Requests that keep their slot until they are released."""

    def __init__(self, limiter: RequestLimiter) -> None:
        self.began: list[str] = []
        self._limiter = limiter
        self._ends: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def start(self, *names: str) -> None:
        for name in names:
            self._ends[name] = asyncio.Event()
            self._tasks[name] = asyncio.create_task(self._run(name))
        await settle()

    async def end(self, name: str) -> None:
        self._ends[name].set()
        await self._tasks[name]
        await settle()

    async def cancel(self, name: str) -> None:
        self._tasks[name].cancel()
        await asyncio.wait([self._tasks[name]])
        await settle()

    def cancel_soon(self, name: str) -> None:
        self._tasks[name].cancel()

    async def _run(self, name: str) -> None:
        async with self._limiter.slot(name[0]):
            self.began.append(name)
            await self._ends[name].wait()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_no_more_than_the_allowed_number_begins() -> None:
    work = Work(RequestLimiter(2))
    await work.start("a1", "a2", "a3")
    assert work.began == ["a1", "a2"]
    await work.end("a1")
    assert work.began == ["a1", "a2", "a3"]
    await work.end("a2")
    await work.end("a3")


async def test_projects_take_turns_however_many_requests_one_queues() -> None:
    work = Work(RequestLimiter(1))
    await work.start("a1", "a2", "a3", "a4", "b1", "b2", "c1")
    for name in ("a1", "a2", "b1", "c1", "a3", "b2", "a4"):
        assert work.began[-1] == name
        await work.end(name)


async def test_a_cancelled_request_loses_its_turn() -> None:
    work = Work(RequestLimiter(1))
    await work.start("a1", "a2", "a3")
    await work.cancel("a2")
    await work.end("a1")
    assert work.began == ["a1", "a3"]
    await work.end("a3")


async def test_a_slot_given_to_a_request_cancelled_at_that_moment_goes_to_the_next() -> None:
    work = Work(RequestLimiter(1))
    await work.start("a1", "a2", "a3")
    work._ends["a1"].set()
    await asyncio.sleep(0)  # a1 ends and hands its slot to a2, which has not run yet
    work.cancel_soon("a2")
    await settle()
    assert work.began == ["a1", "a3"]
    await work.end("a3")


async def test_an_exception_gives_the_slot_back() -> None:
    limiter = RequestLimiter(1)
    with pytest.raises(ZeroDivisionError):
        async with limiter.slot("a"):
            raise ZeroDivisionError
    async with asyncio.timeout(20), limiter.slot("a"):
        pass


def test_no_slot_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="concurrency is 0"):
        RequestLimiter(0)
