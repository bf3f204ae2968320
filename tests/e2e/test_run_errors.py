"""ERR-001 to ERR-003: runs that cannot do their work say why, and leave everything as it was."""

from collections.abc import Callable

import grpc
import pytest
from playbooks.executor.v1 import catalog_service_pb2 as catalog
from playbooks.runs.v1.run_pb2 import PlaybookRules, Run

from tests.support.openai_protocol import Behaviour
from tests.support.openai_server import OpenAIServer
from tests.support.shop import TITLES, Shop, hash_of, refusal, scope_of

FAILURES = {
    "401": (Behaviour(status=401), "AI_AUTHENTICATION_FAILED"),
    "429 for too long": (Behaviour(status=429, retry_after="601"), "AI_RATE_LIMITED"),
    "the account is empty": (Behaviour(status=402), "AI_RATE_LIMITED"),
    "500 for ever": (Behaviour(status=500), "AI_PROVIDER_ERROR"),
    "time-out": (Behaviour(delay_seconds=60), "AI_TIMEOUT"),
    "connection cut": (Behaviour(answer="hang_up"), "AI_PROVIDER_ERROR"),
    "invalid JSON": (Behaviour(answer="not_json"), "AI_INVALID_RESPONSE"),
    "schema violated": (Behaviour(answer="wrong_schema"), "AI_INVALID_RESPONSE"),
    "products missing": (Behaviour(rewrite=lambda _: '{"items": []}'), "AI_INVALID_RESPONSE"),
    "content filter": (Behaviour(answer="content_filter"), "AI_INVALID_RESPONSE"),
}


@pytest.mark.parametrize("failure", FAILURES)
async def test_ERR_001_when_ai_fails_the_run_fails_and_nothing_is_charged(
    shop: Shop, openai: OpenAIServer, failure: str
) -> None:
    behaviour, code = FAILURES[failure]
    await shop.open(plan=catalog.Project.PRO)
    await shop.stock(2)
    openai.behave(behaviour)

    run = await shop.preview()

    assert (run.status, run.error_code) == (Run.FAILED, code), run
    assert len(run.error_message) > 40
    assert openai.api_key not in run.error_message
    assert run.draft_id == ""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await shop.latest_draft()
    assert refusal(caught.value).reason == "DRAFT_NOT_FOUND"
    assert await shop.ai_used_today() == 0
    assert run.progress.completed == 0


async def test_ERR_001_an_earlier_draft_stays_as_it_was(shop: Shop, openai: OpenAIServer) -> None:
    await shop.stock(15)
    preview = await shop.preview()
    before = await shop.draft(preview.draft_id)
    openai.behave(Behaviour(status=401))

    run = await shop.draft_run(preview)

    assert (run.status, run.error_code) == (Run.FAILED, "AI_AUTHENTICATION_FAILED")
    assert await shop.draft(preview.draft_id) == before


async def test_ERR_001_what_had_arrived_is_not_paid_for_again(shop: Shop, openai: OpenAIServer) -> None:
    ids = await shop.stock(25)
    preview = await shop.preview()
    openai.behave(Behaviour(status=401, product_ids=ids[-1:]))
    failed = await shop.draft_run(preview)
    assert failed.status == Run.FAILED
    openai.behave()

    run = await shop.draft_run(preview)

    assert (run.status, run.result.draft_generated) == (Run.SUCCEEDED, 25)
    assert {openai.stats().answered[product_id] for product_id in ids} == {1}


async def test_ERR_001_connection_refused(shop: Shop, openai: OpenAIServer) -> None:
    await shop.stock(2)
    with openai.refusing_connections():
        run = await shop.preview()
    assert (run.status, run.error_code, run.draft_id) == (Run.FAILED, "AI_PROVIDER_ERROR", "")
    assert await shop.ai_used_today() == 0


@pytest.mark.parametrize("run_type", [Run.APPLY, Run.DRAFT_GENERATE])
async def test_ERR_002_without_a_draft_the_run_is_stale(shop: Shop, run_type: Run.Type.ValueType) -> None:
    ids = await shop.stock(2)
    scope = scope_of(shop.project, TITLES, ids)
    rules = hash_of({"enabled": False, "mode": "enforce"})

    run = await shop.ended((await shop.create(run_type, scope_id=scope, rules_hash=rules)).run)

    assert (run.status, run.error_code) == (Run.STALE, "PLAYBOOK_DRAFT_NOT_FOUND")
    assert scope in run.error_message


async def test_ERR_003_other_rules_than_the_drafts_make_the_run_stale(shop: Shop, openai: OpenAIServer) -> None:
    await shop.stock(2)
    preview = await shop.preview()
    before, calls = await shop.products(), openai.stats().requests

    run = await shop.apply(preview, rules_hash="feedfacefeedface")

    assert (run.status, run.error_code) == (Run.STALE, "PLAYBOOK_RULES_CHANGED")
    assert "feedfacefeedface" in run.error_message
    assert preview.rules_hash in run.error_message
    assert await shop.products() == before
    assert openai.stats().requests == calls


async def test_ERR_003_a_later_preview_with_other_rules_makes_an_apply_stale(shop: Shop, openai: OpenAIServer) -> None:
    await shop.stock(2)
    first = await shop.preview()
    await shop.preview(rules=PlaybookRules(enabled=True, prefix="Newer "))
    before, calls = await shop.products(), openai.stats().requests

    run = await shop.apply(first)

    assert (run.status, run.error_code) == (Run.STALE, "PLAYBOOK_RULES_CHANGED")
    assert await shop.products() == before
    assert openai.stats().requests == calls


async def test_ERR_003_an_unknown_project_fails_with_a_reason(new_shop: Callable[[], Shop]) -> None:
    shop = new_shop()
    run = await shop.preview()
    assert (run.status, run.error_code) == (Run.FAILED, "PROJECT_NOT_FOUND")
    assert shop.project in run.error_message
