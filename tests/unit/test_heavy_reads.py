"""Reads that are bounded for each project and shared by all who ask for the same."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import grpc
import pytest

from executor_service.work.heavy_reads import LIMIT, MAX_WAITING, HeavyReads
from servicekit.errors import Reason, ServiceError
from servicekit.telemetry.metrics import Metrics
from tests.support.waiting import eventually


class Reads:
    """Reads that begin when it is their turn, and end when they are let."""

    def __init__(self, *, at_once: int = 2) -> None:
        self.metrics = Metrics()
        self.heavy = HeavyReads(at_once=at_once, metrics=self.metrics)
        self.begun: list[str] = []
        self.under_way: Counter[str] = Counter()
        self._ends: list[asyncio.Future[None]] = []

    def ask(self, project: str, kind: str = "k") -> "asyncio.Task[str]":
        return asyncio.create_task(self.heavy.share(project, kind, self._read(f"{project}.{kind}")))

    def _read(self, name: str) -> Callable[[], Awaitable[str]]:
        async def read() -> str:
            self.begun.append(name)
            number = self.begun.count(name)
            self.under_way[name] += 1
            end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._ends.append(end)
            try:
                await end
            finally:
                self.under_way[name] -= 1
            return f"{name} {number}"

        return read

    async def begin(self, *names: str) -> None:
        await eventually(lambda: self.begun == list(names))

    def let_end(self, error: Exception | None = None) -> None:
        """Let the read end that began first."""
        end = self._ends.pop(0)
        if error:
            end.set_exception(error)
        else:
            end.set_result(None)


async def turns(count: int = 10) -> None:
    """Let everything happen that can happen by itself."""
    for _ in range(count):
        await asyncio.sleep(0)


async def answers(calls: Sequence["asyncio.Task[str]"]) -> set[str]:
    return set(await asyncio.gather(*calls))


async def test_calls_that_arrive_during_a_read_share_the_next_one() -> None:
    reads = Reads()
    first = reads.ask("p")
    await reads.begin("p.k")
    late = [reads.ask("p") for _ in range(50)]
    await turns()
    assert reads.begun == ["p.k"]  # one at a time
    reads.let_end()
    assert await first == "p.k 1"
    await reads.begin("p.k", "p.k")
    reads.let_end()
    assert await answers(late) == {"p.k 2"}  # what the first one read may have been written before they came
    assert len(reads.begun) == 2


async def test_calls_that_come_together_share_one_read() -> None:
    reads = Reads()
    calls = [reads.ask("p") for _ in range(50)]
    await reads.begin("p.k")
    reads.let_end()
    assert await answers(calls) == {"p.k 1"}


async def test_a_project_has_one_read_under_way_at_a_time_of_any_kind() -> None:
    reads = Reads()
    calls = [reads.ask("p", "titles"), reads.ask("p", "descriptions")]
    await turns()
    assert reads.begun == ["p.titles"]
    reads.let_end()
    await reads.begin("p.titles", "p.descriptions")
    reads.let_end()
    assert await answers(calls) == {"p.titles 1", "p.descriptions 1"}


async def test_projects_take_turns() -> None:
    reads = Reads(at_once=1)
    calls = [reads.ask("crowd", kind) for kind in ("a", "b", "c") for _ in range(20)]
    calls.append(reads.ask("other"))
    for count in range(1, 5):
        await eventually(lambda: len(reads.begun) == count)  # noqa: B023
        assert reads.under_way.total() == 1
        reads.let_end()
    assert reads.begun == ["crowd.a", "other.k", "crowd.b", "crowd.c"]
    await answers(calls)


async def test_a_failed_read_fails_for_all_callers_that_share_it_and_for_no_other() -> None:
    reads = Reads()
    calls = [reads.ask("p") for _ in range(3)]
    await reads.begin("p.k")
    reads.let_end(ServiceError(Reason.PROJECT_NOT_FOUND, "there is none"))
    for failed in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(failed, ServiceError)
        assert failed.reason is Reason.PROJECT_NOT_FOUND
    again = reads.ask("p")
    await reads.begin("p.k", "p.k")
    reads.let_end()
    assert await again == "p.k 2"


async def test_callers_that_leave_start_nothing_more() -> None:
    """What has begun goes on, so a caller that comes and goes cannot have two reads of a project under way."""
    reads = Reads()
    for _ in range(20):
        call = reads.ask("p")
        await turns()
        call.cancel()
        await turns()
    assert reads.begun == ["p.k"]
    assert reads.under_way.total() == 1
    reads.let_end()
    await reads.begin("p.k", "p.k")  # that of all the others
    reads.let_end()
    await eventually(lambda: not reads.heavy._lines)


async def test_too_many_calls_of_one_project_are_refused_and_others_are_not() -> None:
    reads = Reads()
    calls = [reads.ask("p") for _ in range(MAX_WAITING)]
    await turns()
    with pytest.raises(ServiceError) as refused:
        await reads.ask("p")
    assert refused.value.reason is Reason.TOO_MANY_CALLS
    assert refused.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refused.value.retry_after is not None
    assert reads.metrics.registry.get_sample_value("limits_reached_total", {"limit": LIMIT}) == 1
    other = reads.ask("q")
    await reads.begin("p.k", "q.k")
    reads.let_end()
    reads.let_end()
    await answers([*calls, other])
    again = reads.ask("p")
    await reads.begin("p.k", "q.k", "p.k")
    reads.let_end()
    assert await again == "p.k 2"


async def test_nothing_is_kept_of_a_project_that_asks_no_more() -> None:
    reads = Reads()
    call = reads.ask("p")
    await reads.begin("p.k")
    assert reads.heavy._lines
    reads.let_end()
    await call
    await eventually(lambda: not reads.heavy._lines)


async def test_a_stop_breaks_off_what_is_under_way_and_in_line() -> None:
    reads = Reads()
    calls = [reads.ask("p"), reads.ask("p", "other")]
    await reads.begin("p.k")
    await reads.heavy.close()
    assert reads.under_way.total() == 0
    ended = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(one, asyncio.CancelledError) for one in ended)
    await reads.heavy.close()
