"""LIM-001: the daily allowance of AI suggestions. The reset at midnight, with an injected clock, is tested at the
executor (test_executor_quota.py)."""

import asyncio

import pytest
from playbooks.executor.v1 import catalog_service_pb2 as catalog
from playbooks.executor.v1 import executor_service_pb2 as executor
from playbooks.runs.v1.run_pb2 import PlaybookRules, Run

from tests.support.openai_protocol import Behaviour
from tests.support.openai_server import OpenAIServer
from tests.support.shop import DESCRIPTIONS, TITLES, Shop


async def test_LIM_001_a_run_that_does_not_fit_fails_with_nothing_called(shop: Shop, openai: OpenAIServer) -> None:
    await shop.open(plan=catalog.Project.PRO, limit=5)
    await shop.stock(10)
    preview = await shop.preview()
    calls = openai.stats().requests

    run = await shop.draft_run(preview)

    assert (run.status, run.error_code) == (Run.FAILED, "AI_DAILY_LIMIT_REACHED"), run
    for value in ("5", "3", "7", "00:00"):  # the limit, what is used, what is needed, when it resets
        assert value in run.error_message
    assert openai.stats().requests == calls
    assert await shop.ai_used_today() == 3


async def test_LIM_001_a_limit_that_is_used_up(shop: Shop, openai: OpenAIServer) -> None:
    await shop.open(plan=catalog.Project.PRO, limit=3)
    await shop.stock(6)
    assert (await shop.preview(sample=3)).status == Run.SUCCEEDED
    run = await shop.preview(DESCRIPTIONS)
    assert (run.status, run.error_code) == (Run.FAILED, "AI_DAILY_LIMIT_REACHED")
    again = await shop.preview(rules=PlaybookRules(enabled=True, suffix="!"))
    assert again.status == Run.SUCCEEDED, "what is stored already costs nothing"


async def test_LIM_001_two_runs_racing_for_the_last_suggestions(shop: Shop, openai: OpenAIServer) -> None:
    await shop.open(plan=catalog.Project.PRO, limit=4)
    await shop.stock(3)
    openai.behave(Behaviour(delay_seconds=0.3))

    runs = await asyncio.gather(shop.preview(TITLES, sample=3), shop.preview(DESCRIPTIONS, sample=3))

    assert sorted(run.status for run in runs) == [Run.SUCCEEDED, Run.FAILED]
    assert {run.error_code for run in runs} == {"", "AI_DAILY_LIMIT_REACHED"}
    assert await shop.ai_used_today() == 3 == sum(openai.stats().answered.values())


@pytest.mark.parametrize("limit", [None, 50])
async def test_LIM_001_the_free_plan_has_no_ai(shop: Shop, openai: OpenAIServer, limit: int | None) -> None:
    await shop.open(plan=catalog.Project.FREE, limit=limit)
    await shop.stock(1)
    calls = openai.stats().requests
    run = await shop.preview()
    assert (run.status, run.error_code) == (Run.FAILED, "PLAN_NOT_ELIGIBLE")
    assert "FREE" in run.error_message
    assert openai.stats().requests == calls
    assert (await _estimate(shop)).eligible is False


async def test_LIM_001_the_estimate_tells_what_is_left(shop: Shop) -> None:
    await shop.open(plan=catalog.Project.PRO)
    ids = await shop.stock(8)
    await shop.preview(sample=2)

    estimate = await _estimate(shop)

    limit = estimate.ai_daily_limit
    assert (limit.limit, limit.used, limit.remaining) == (100, 2, 98)
    resets = limit.resets_at.ToDatetime()
    assert (resets.hour, resets.minute, resets.second) == (0, 0, 0)
    assert (estimate.total_affected, estimate.eligible, list(estimate.reasons)) == (len(ids), True, [])
    await shop.open(plan=catalog.Project.PRO, limit=3)
    short = await _estimate(shop)
    assert (short.eligible, short.ai_daily_limit.remaining) == (False, 1)
    assert short.reasons


async def _estimate(shop: Shop) -> executor.EstimatePlaybookResponse:
    request = executor.EstimatePlaybookRequest(project_id=shop.project, playbook_id=TITLES)
    return await shop.executor.EstimatePlaybook(request, **shop.auth("VIEWER"))
