"""LIM-001: the AI allowance is never exceeded, and only what was used is charged."""

import asyncio
from datetime import UTC, datetime, timedelta

from executor_service.ai.errors import AIError
from executor_service.domain.execution import Status
from executor_service.playbooks.quota import Plan
from tests.support.executor import DESCRIPTIONS, Bench, job
from tests.support.waiting import eventually

AI_DOWN = AIError("AI_PROVIDER_ERROR", "The provider is down", "Try again later.")


async def test_LIM_001_a_run_that_does_not_fit_calls_nothing_and_says_why(bench: Bench) -> None:
    await bench.stock(5, plan=Plan.PRO, limit=4)
    async with bench.working():
        await bench.preview(sample=3)
        failed = await bench.preview(sample=3, playbook_id=DESCRIPTIONS, expect=Status.FAILED)
    assert failed.error_code == "AI_DAILY_LIMIT_REACHED"
    for fact in ("needs 3", "only 1", "today's 4", "3 are used", "2026-05-05 00:00 UTC", "ai_daily_limit"):
        assert fact in failed.error_message
    assert bench.provider.requests == 2
    assert await bench.ai_used() == 3


async def test_LIM_001_the_limit_resets_at_utc_midnight(bench: Bench) -> None:
    await bench.stock(2, plan=Plan.PRO, limit=2)
    bench.clock.advance(datetime(2026, 5, 4, 23, 59, 59, tzinfo=UTC) - bench.clock.now())
    async with bench.working():
        await bench.preview()
        await bench.preview(playbook_id=DESCRIPTIONS, expect=Status.FAILED)
        bench.clock.advance(timedelta(seconds=1))
        assert await bench.ai_used() == 0
        await bench.preview(playbook_id=DESCRIPTIONS)
    assert await bench.ai_used() == 2


async def test_LIM_001_an_allowance_says_when_it_resets_up_to_the_last_microsecond(bench: Bench) -> None:
    await bench.stock(1, plan=Plan.PRO)
    project = await bench.catalog.project("p")
    midnight = datetime(2026, 5, 5, tzinfo=UTC)
    bench.clock.advance(midnight - timedelta(microseconds=1) - bench.clock.now())
    assert (await bench.catalog.allowance(project)).resets_at == midnight
    bench.clock.advance(timedelta(microseconds=1))
    assert (await bench.catalog.allowance(project)).resets_at == midnight + timedelta(days=1)


async def test_LIM_001_a_run_over_midnight_is_charged_to_the_day_on_which_it_reserved(bench: Bench) -> None:
    await bench.stock(2, plan=Plan.PRO, limit=2)
    bench.clock.advance(datetime(2026, 5, 4, 23, 59, 59, tzinfo=UTC) - bench.clock.now())
    bench.provider.open.clear()
    async with bench.working():
        running = asyncio.create_task(bench.preview())
        await bench.provider.waiting.wait()
        bench.clock.advance(timedelta(seconds=1))
        bench.provider.open.set()
        await running
        assert await bench.ai_used() == 0
        await bench.preview(playbook_id=DESCRIPTIONS)  # the new day's allowance is there, all of it
    days = await bench.rows("SELECT CAST(day AS text), used FROM executor.ai_usage ORDER BY day")
    assert [tuple(row) for row in days] == [("2026-05-04", 2), ("2026-05-05", 2)]


async def test_LIM_001_pro_has_100_a_day_and_business_any_number(bench: Bench) -> None:
    await bench.stock(102, plan=Plan.PRO)
    async with bench.working():
        preview = await bench.preview(sample=1)
        failed = await bench.draft(preview, expect=Status.FAILED)
        assert "only 99 of today's 100" in failed.error_message
        await bench.stock(0, plan=Plan.BUSINESS)
        await bench.draft(preview)
    assert await bench.ai_used() == 102


async def test_LIM_001_two_runs_racing_for_the_last_suggestions(bench: Bench, other: Bench) -> None:
    await bench.stock(3, plan=Plan.PRO, limit=5)
    bench.provider.open.clear()
    async with bench.working(), other.working():
        runs = asyncio.gather(bench.execute(job()), other.execute(job(playbook_id=DESCRIPTIONS)))
        await eventually(lambda: bench.provider.requests >= 2)
        bench.provider.open.set()
        ends = await runs
    assert sorted(end.status for end in ends) == [Status.FAILED, Status.SUCCEEDED]
    assert await bench.ai_used() == 3


async def test_LIM_001_running_runs_keep_what_they_reserved(bench: Bench) -> None:
    await bench.stock(3, plan=Plan.PRO, limit=5)
    bench.provider.open.clear()
    async with bench.working():
        first = asyncio.create_task(bench.preview())
        await bench.provider.waiting.wait()
        assert await bench.ai_used() == 3
        await bench.preview(playbook_id=DESCRIPTIONS, expect=Status.FAILED)
        bench.provider.open.set()
        await first


async def test_LIM_001_calls_that_gave_nothing_are_not_charged(bench: Bench) -> None:
    ids = await bench.stock(4, plan=Plan.PRO)
    bench.provider.blank = {ids[0]}
    bench.provider.failing = {ids[2]: AI_DOWN}
    async with bench.working():
        await bench.preview(sample=4, expect=Status.FAILED)
        assert await bench.ai_used() == 1  # the second product's
        bench.provider.failing = {}
        await bench.preview(sample=4)
    assert await bench.ai_used() == 3
    assert await bench.value("SELECT sum(ai_reserved) FROM executor.executions") == 0


async def test_LIM_001_a_reservation_of_a_dead_attempt_is_given_back(bench: Bench, other: Bench) -> None:
    await bench.stock(3, plan=Plan.PRO, limit=3)
    bench.provider.open.clear()
    run = job()
    async with bench.working():
        await bench.inbox.accept([run])
        await bench.provider.waiting.wait()
    assert await bench.ai_used() == 3  # handed back with its reservation
    bench.provider.open.set()
    async with other.working():
        state = await other.execute(run)
    assert state.status is Status.SUCCEEDED
    assert await bench.ai_used() == 3


async def test_LIM_001_a_reservation_is_given_back_to_the_day_it_was_taken_from(bench: Bench) -> None:
    bench.provider.blank = set(await bench.stock(2, plan=Plan.PRO))
    bench.provider.open.clear()
    async with bench.working():
        running = asyncio.create_task(bench.preview())
        await bench.provider.waiting.wait()
        bench.clock.advance(timedelta(days=1))
        bench.provider.open.set()
        await running
    assert await bench.value("SELECT sum(used) FROM executor.ai_usage") == 0
