"""What a run cost is counted however it ends, and over all its attempts."""

import logging

import pytest

from executor_service.ai.errors import AIError
from executor_service.ai.offline import OfflineProvider
from executor_service.ai.provider import Expectation
from executor_service.domain.ai_usage import AIUsage
from executor_service.domain.execution import Status
from executor_service.playbooks.playbook import MISSING_SEO_TITLE
from executor_service.playbooks.quota import Plan
from executor_service.playbooks.rules import Rules
from executor_service.store.suggestions import Suggestions
from tests.support.executor import Bench, job
from tests.support.waiting import eventually

AI_DOWN = AIError("AI_PROVIDER_ERROR", "The provider is down", "Try again later.")


async def test_a_run_says_what_it_asked_for_and_what_was_there_already(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    await bench.stock(5)
    async with bench.working():
        preview = await bench.preview(sample=3)
        assert preview.ai_usage == AIUsage(2, 3, 0, 200, 80, 20, "scripted")
        with caplog.at_level(logging.INFO):
            draft = await bench.draft(preview)
        assert draft.ai_usage == AIUsage(1, 2, 3, 100, 40, 10, "scripted")
        assert f"Run {draft.run_id} completed successfully (aiUsed=true); {draft.ai_usage}" in caplog.text
        again = await bench.preview(sample=3)
        assert (again.ai_used, again.ai_usage) == (False, AIUsage(reused=3, model="scripted"))
        assert (await bench.applied(preview)).ai_usage is None


async def test_a_run_that_fails_has_paid_too(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    ids = await bench.stock(4)
    bench.provider.failing = {ids[2]: AI_DOWN}
    async with bench.working():
        failed = await bench.preview(sample=4, expect=Status.FAILED)
        assert failed.ai_usage == AIUsage(2, 2, 0, 200, 80, 20, "scripted")
        assert f"Try again later. ({failed.ai_usage})" in caplog.text
        bench.provider.failing = {ids[2]: AI_DOWN, ids[3]: AI_DOWN}  # nothing arrives that would be stored
        failed = await bench.preview(sample=4, expect=Status.FAILED)
        assert failed.ai_usage == AIUsage(1, 0, 2, 100, 40, 10, "scripted")


async def test_what_an_attempt_paid_for_stays_when_another_takes_over(bench: Bench, other: Bench) -> None:
    ids = await bench.stock(4)
    run = job(sample=4)
    bench.provider.held = {ids[2]}
    async with bench.working():
        await bench.inbox.accept([run])
        await eventually(lambda: bench.stored_suggestions(2))
    bench.provider.held = set()
    async with other.working():
        state = await other.execute(run)
    assert (state.status, state.attempt) == (Status.SUCCEEDED, 2)
    # The second request of the first attempt went out, and was lost with it.
    assert state.ai_usage == AIUsage(3, 4, 0, 200, 80, 20, "scripted")


async def test_a_cancelled_run_says_what_it_had_paid_for(bench: Bench) -> None:
    ids = await bench.stock(4)
    run = job(sample=4)
    bench.provider.held = {ids[2]}
    async with bench.working():
        await bench.inbox.accept([run])
        await eventually(lambda: bench.stored_suggestions(2))
        (state,) = await bench.cancellation.cancel([run])
    assert (state.status, state.ai_usage) == (Status.CANCELLED, AIUsage(2, 2, 0, 100, 40, 10, "scripted"))


async def test_the_offline_writer_makes_suggestions_without_requests(executor_database: str) -> None:
    async with Bench(executor_database, provider=OfflineProvider()) as bench:  # type: ignore[arg-type]
        await bench.stock(3)
        async with bench.working():
            assert (await bench.preview(sample=3)).ai_usage == AIUsage(suggestions=3, model="offline-template")


async def test_an_estimate_tells_the_requests_that_a_draft_will_send(bench: Bench) -> None:
    await bench.stock(9)

    async def expected() -> Expectation:
        return (await bench.estimator.estimate("p", MISSING_SEO_TITLE, Rules())).expectation

    assert (await expected()).requests == 5
    async with bench.working():
        preview = await bench.preview(sample=3)
        left = await expected()
        draft = await bench.draft(preview)
    assert draft.ai_usage
    assert (left.requests, draft.ai_usage.suggestions) == (draft.ai_usage.requests, 6) == (3, 6)
    assert left.output_tokens < left.input_tokens
    assert await expected() == Expectation()


@pytest.mark.parametrize("limit", [None, 10_000], ids=["extrapolated", "counted"])
async def test_an_estimate_reads_a_sample_that_is_spread_over_the_products(bench: Bench, limit: int | None) -> None:
    ids = await bench.stock(1_000, plan=Plan.PRO if limit else Plan.BUSINESS, limit=limit)
    await bench.put(ids[0], title="T", seo_title="there")
    async with bench.working():
        await bench.preview(sample=50)
    suggestions = Suggestions(bench.database)
    depends = {"model": "scripted", "prompt_version": "1"}
    sample = await suggestions.spread("p", MISSING_SEO_TITLE, **depends, every=9, limit=200)
    assert 70 <= len(sample) <= 150
    assert ids[0] not in {one.product_id for one in sample}
    chosen = [ids.index(one.product_id) for one in sample]
    assert all(any(start <= place < start + 100 for place in chosen) for start in range(0, 1_000, 100))
    assert len(await suggestions.spread("p", MISSING_SEO_TITLE, **depends, every=1, limit=200)) == 200
    found = (await bench.estimator.estimate("p", MISSING_SEO_TITLE, Rules())).expectation
    assert found.requests == (475 if limit else pytest.approx(475, rel=0.06))  # 949 products, two with a request
