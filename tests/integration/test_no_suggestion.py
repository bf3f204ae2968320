"""Products without a suggestion: they stop nothing, and the draft, the apply and the log say why there is none."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta

import pytest
from playbooks.runs.v1.run_pb2 import PlaybookRules
from pydantic import SecretStr

from executor_service import messages
from executor_service.ai.factory import build_provider
from executor_service.ai.retry import RetryPolicy
from executor_service.domain.execution import Status
from executor_service.work.generate import NOTHING_LEFT
from executor_service.work.suggestion_fetcher import EMPTY_TEXT, FRUITLESS, PATIENCE
from tests.support.executor import Bench, FakeClock, ScriptedProvider, job
from tests.support.openai_protocol import Behaviour
from tests.support.openai_server import OpenAIServer

NEVER = "Thing 17"
REFUSED = "The AI provider's content filter refused to write about this product."
NO_ANSWER = "The AI provider gave no answer for this product."


@pytest.fixture
def openai() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


@pytest.fixture
async def shop(executor_database: str, openai: OpenAIServer) -> AsyncIterator[Bench]:
    """An executor with the real provider."""

    async def sleep(_: float) -> None:
        await asyncio.sleep(0)

    provider = build_provider(
        api_key=SecretStr(openai.api_key), base_url=openai.base_url, retry=RetryPolicy(sleep=sleep)
    )
    async with Bench(executor_database, provider=provider, batch_size=10) as bench, bench.working():  # type: ignore[arg-type]
        yield bench
    await provider.close()


def without_a_text(title: str) -> Behaviour:
    return Behaviour(answer="missing", product_ids=[title])


async def test_a_product_that_is_never_answered_stops_neither_draft_nor_apply(
    shop: Bench, openai: OpenAIServer, caplog: pytest.LogCaptureFixture
) -> None:
    await shop.stock(40)
    openai.behave(without_a_text(NEVER))
    preview = await shop.preview()
    draft = await shop.draft(preview)
    assert draft.result == {"affected_total": 40, "draft_generated": 39, "no_suggestion_count": 1}
    assert (draft.completed, draft.total) == (40, 40)
    page = await shop.latest_draft()
    assert {item.product_id: item.no_suggestion_reason for item in page.items if item.no_suggestion_reason} == {
        "00017": NO_ANSWER
    }
    on_the_wire = messages.draft(page, shop.clock.now()).items
    assert [item.no_suggestion_reason for item in on_the_wire[16:19]] == ["", NO_ANSWER, ""]
    assert f"1 of 40 products have no suggestion: {NO_ANSWER} Products: 00017" in caplog.text

    applied = await shop.applied(draft)

    assert applied.result == {"total_affected": 40, "attempted": 39, "updated": 39, "skipped": 1, "failed": 0}
    items = (await shop.queries.run_items("p", applied.run_id, limit=100, page_token="")).rows
    assert [item.message for item in items if item.message] == [
        f"The draft has no usable SEO title for this product. {NO_ANSWER}"
    ]
    assert await shop.ai_used() == 39


async def test_a_later_run_asks_for_it_again_and_succeeds_whatever_comes(shop: Bench, openai: OpenAIServer) -> None:
    await shop.stock(3)
    openai.behave(without_a_text("Thing 1"))
    preview = await shop.preview()
    assert preview.result is not None
    assert preview.result["draft_generated"] == 2
    again = await shop.draft(preview)  # nothing but that one is asked for, and nothing comes
    assert again.result == {"affected_total": 3, "draft_generated": 2, "no_suggestion_count": 1}
    openai.behave()
    assert (await shop.draft(again)).result == {"affected_total": 3, "draft_generated": 3, "no_suggestion_count": 0}
    assert not any(item.no_suggestion_reason for item in (await shop.latest_draft()).items)


async def test_each_reason_is_shown(shop: Bench, openai: OpenAIServer) -> None:
    await shop.stock(4)
    openai.behave(
        Behaviour(answer="content_filter", product_ids=["Thing 0"]),
        Behaviour(answer="blank", product_ids=["Thing 1"]),
        Behaviour(texts={"Thing 2": "n/a"}),
    )
    rules = PlaybookRules(enabled=True)
    rules.find_replace.find = "n/a"
    preview = await shop.preview(sample=4, rules=rules)
    assert preview.result == {"affected_total": 4, "draft_generated": 1, "no_suggestion_count": 3}
    reasons = [item.no_suggestion_reason for item in (await shop.latest_draft()).items]
    assert reasons == [REFUSED, EMPTY_TEXT, NOTHING_LEFT, ""]


@pytest.mark.parametrize("behaviour", [Behaviour(status=401), Behaviour(answer="content_filter")], ids=str)
async def test_a_run_whose_requests_all_failed_has_nothing_done(
    shop: Bench, openai: OpenAIServer, behaviour: Behaviour
) -> None:
    await shop.stock(3)
    openai.behave(behaviour)
    failed = await shop.preview(expect=Status.FAILED)
    assert (failed.completed, failed.total) == (0, 3)


async def test_a_model_that_writes_nothing_usable_fails_the_run_before_it_costs_much(
    shop: Bench, openai: OpenAIServer
) -> None:
    await shop.stock(200)
    preview = await shop.preview()
    await shop.rows("DELETE FROM executor.suggestions RETURNING 1")
    openai.reset()
    openai.behave(Behaviour(rewrite=lambda _: "No."))
    failed = await shop.draft(preview, expect=Status.FAILED)
    assert failed.error_code == "AI_INVALID_RESPONSE"
    assert openai.stats().requests <= (FRUITLESS + 2) * 8  # two are under way at once


async def test_the_provider_may_wait_until_shortly_before_the_deadline(executor_database: str) -> None:
    provider, clock = ScriptedProvider(), FakeClock()
    async with Bench(executor_database, provider=provider, clock=clock) as bench, bench.working():
        await bench.stock(1)
        await bench.execute(job(deadline=clock.now() + timedelta(seconds=600)))
        assert provider.patience == 600 * PATIENCE
