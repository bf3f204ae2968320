"""HP-001 to HP-005: what the product is for."""

import asyncio
from collections.abc import Callable

import pytest
from playbooks.runs.v1 import runs_service_pb2 as pb
from playbooks.runs.v1.run_pb2 import Draft, PlaybookRules, Run, RunItem, RunMeta

from tests.support.openai_server import OpenAIServer
from tests.support.shop import DESCRIPTIONS, TITLES, Shop, hash_of, logged, scope_of

NO_RULES = hash_of({"enabled": False, "mode": "enforce"})


async def test_HP_001_a_preview_makes_a_draft_for_the_first_products(shop: Shop, openai: OpenAIServer) -> None:
    ids = await shop.stock(5)
    await shop.put(id=shop.product_id(99), title="Has one", seo_title="Already there")

    reply = await shop.create(Run.PREVIEW_GENERATE, meta=RunMeta(sample_size=3))

    assert reply.created
    assert (reply.run.status, reply.run.sequence, reply.run.attempt) == (Run.QUEUED, 1, 0)
    run = await shop.ended(reply.run)
    assert run.status == Run.SUCCEEDED, run
    assert run.ai_used
    assert run.scope_id == scope_of(shop.project, TITLES, ids)
    assert run.rules_hash == NO_RULES
    assert (run.result.affected_total, run.result.draft_generated, run.result.no_suggestion_count) == (5, 3, 0)
    assert (run.progress.completed, run.progress.total) == (3, 3)
    assert run.created_by_user_id == "tester"
    assert run.created_at.ToDatetime() <= run.started_at.ToDatetime() <= run.finished_at.ToDatetime()
    draft = await shop.draft(run.draft_id)
    assert draft.status == Draft.PARTIAL
    assert draft.model == "test-model"
    usage = run.ai_usage
    assert (usage.suggestions, usage.reused, usage.model) == (3, 0, "test-model")
    assert (usage.input_tokens, usage.output_tokens) == (100 * usage.requests, 20 * usage.requests) != (0, 0)
    assert {item.product_id: item.final_suggestion for item in draft.items} == {
        product_id: f"SEO title for Thing {number}" for number, product_id in enumerate(ids[:3], start=1)
    }
    assert sum(openai.stats().asked[product_id] for product_id in ids[:3]) == 3
    assert logged(shop.stack, f"[AutomationPlaybookRunsService] Created run {run.id}")
    assert logged(shop.stack, f"[AutomationPlaybookRunProcessor] Processing run {run.id}")
    assert logged(shop.stack, f"[AutomationPlaybookRunProcessor] Run {run.id} completed successfully (aiUsed=true)")


async def test_economy_changes_the_price_and_not_the_rules(shop: Shop, openai: OpenAIServer) -> None:
    await shop.stock(2)
    meta = RunMeta(sample_size=2, economy=True)
    cheap = await shop.ended((await shop.create(Run.PREVIEW_GENERATE, "missing_seo_title", meta=meta)).run)
    assert (cheap.status, cheap.meta.economy, cheap.meta.deadline_seconds) == (Run.SUCCEEDED, True, 21_600)
    assert openai.stats().tiers == {"flex": 1}
    usual = await shop.preview(sample=2)
    assert (usual.status, usual.rules_hash, usual.ai_usage.reused) == (Run.SUCCEEDED, cheap.rules_hash, 2)
    assert openai.stats().tiers == {"flex": 1}  # stored suggestions are reused at any price


async def test_HP_002_an_apply_writes_the_draft_and_never_calls_ai(shop: Shop, openai: OpenAIServer) -> None:
    ids = await shop.stock(5)
    preview = await shop.preview(sample=3)
    calls = openai.stats().requests

    run = await shop.apply(preview)

    assert run.status == Run.SUCCEEDED, run
    assert not run.ai_used
    assert run.draft_id == preview.draft_id
    result = run.result
    assert (result.total_affected, result.attempted, result.updated, result.skipped, result.failed) == (5, 3, 3, 2, 0)
    assert openai.stats().requests == calls
    products = await shop.products()
    assert [products[product_id].seo_title for product_id in ids] == [
        "SEO title for Thing 1", "SEO title for Thing 2", "SEO title for Thing 3", "", ""
    ]  # fmt: skip
    items = await shop.items(run)
    assert [items[product_id].status for product_id in ids] == [RunItem.UPDATED] * 3 + [RunItem.SKIPPED] * 2
    assert items[ids[4]].message
    assert logged(shop.stack, "apply.started {", run.id, "usedDraft: true }")
    assert logged(shop.stack, "apply.completed {", run.id, "aiCalled: false }")


async def test_HP_003_the_same_key_gets_the_same_run(shop: Shop) -> None:
    await shop.stock(1)

    first = await shop.create(Run.PREVIEW_GENERATE, idempotency_key="monday")
    second = await shop.create(Run.PREVIEW_GENERATE, idempotency_key="monday", replica=1)

    assert (first.created, second.created) == (True, False)
    assert first.run.id == second.run.id
    assert first.run.idempotency_key == "monday"
    assert logged(shop.stack, f"[AutomationPlaybookRunsService] Returning existing run {first.run.id}")
    await shop.ended(first.run)
    after_success = await shop.create(Run.PREVIEW_GENERATE, idempotency_key="monday")
    assert (after_success.run.id, after_success.created) == (first.run.id, False)


async def test_HP_003_without_a_key_a_finished_preview_makes_way_for_a_new_one(shop: Shop) -> None:
    await shop.stock(1)
    preview = await shop.preview()

    again = await shop.create(Run.PREVIEW_GENERATE, meta=RunMeta(sample_size=3))
    assert again.created
    await shop.ended(again.run)

    applied = await shop.apply(preview)
    repeated = await shop.create(Run.APPLY, scope_id=preview.scope_id, rules_hash=preview.rules_hash)
    assert (repeated.run.id, repeated.created) == (applied.id, False)


async def test_HP_004_lists_run_newest_first_with_filters_and_pages(shop: Shop) -> None:
    await shop.stock(1)
    previews = [await shop.preview(rules=PlaybookRules(enabled=True, prefix=f"{n} ")) for n in range(3)]
    other = await shop.preview(DESCRIPTIONS)
    stale = await shop.apply(previews[0], rules_hash="0" * 16)
    await shop.apply(previews[2])

    async def listed(**filters: object) -> list[str]:
        request = pb.ListRunsRequest(project_id=shop.project, **filters)  # type: ignore[arg-type]
        return [run.id for run in (await shop.runs().ListRuns(request, **shop.auth("VIEWER"))).runs]

    everything = await listed()
    assert len(everything) == 6
    assert everything == sorted(everything, reverse=True)  # UUIDv7 sorts by time
    assert everything[-1] == previews[0].id
    assert await listed(limit=2, offset=1) == everything[1:3]
    assert await listed(playbook_id=DESCRIPTIONS) == [other.id]
    assert await listed(status=Run.STALE) == [stale.id]
    assert set(await listed(run_type=Run.PREVIEW_GENERATE)) == {run.id for run in [*previews, other]}
    assert await listed(scope_id=other.scope_id) == [other.id]
    assert await listed(
        playbook_id=TITLES, run_type=Run.APPLY, scope_id=previews[0].scope_id, status=Run.STALE, limit=5
    ) == [stale.id]
    assert await listed(scope_id="nowhere") == []
    assert (
        len((await shop.runs().ListRuns(pb.ListRunsRequest(project_id=shop.project, limit=1000), **shop.auth())).runs)
        == 6
    )


async def test_HP_004_pages_skip_and_repeat_nothing_while_runs_are_inserted(shop: Shop) -> None:
    before = [
        (await shop.create(Run.APPLY, scope_id="none", rules_hash="none", idempotency_key=f"before {n}")).run.id
        for n in range(60)
    ]

    async def insert(number: int) -> None:
        await shop.create(Run.APPLY, scope_id="none", rules_hash="none", idempotency_key=f"meanwhile {number}")

    seen: list[str] = []
    token = ""
    inserted = 0
    while True:
        request = pb.ListRunsRequest(project_id=shop.project, limit=10, page_token=token)
        page = await shop.runs().ListRuns(request, **shop.auth())
        seen += [run.id for run in page.runs]
        await asyncio.gather(*(insert(number) for number in range(inserted, min(inserted + 50, 250))))
        inserted = min(inserted + 50, 250)
        token = page.next_page_token
        if not token:
            break
    assert inserted == 250
    assert seen == sorted(before, reverse=True)


@pytest.mark.parametrize("playbook_id", [TITLES, DESCRIPTIONS])
async def test_HP_005_preview_draft_apply(shop: Shop, openai: OpenAIServer, playbook_id: str) -> None:
    ids = await shop.stock(23)
    field = playbook_id.removeprefix("missing_")
    rules = PlaybookRules(enabled=True, suffix=" | Shop", max_length=200)
    preview = await shop.preview(playbook_id, rules=rules, sample=3)
    assert preview.status == Run.SUCCEEDED, preview

    draft_run = await shop.draft_run(preview)

    assert draft_run.status == Run.SUCCEEDED, draft_run
    assert draft_run.ai_used
    assert draft_run.draft_id == preview.draft_id
    assert (draft_run.result.affected_total, draft_run.result.draft_generated) == (23, 23)
    assert {openai.stats().asked[product_id] for product_id in ids} == {1}, "the preview's suggestions were paid for"
    draft = await shop.latest_draft(playbook_id)
    assert (draft.id, draft.status, len(draft.items)) == (preview.draft_id, Draft.READY, 23)

    run = await shop.apply(draft_run)

    assert (run.status, run.result.updated) == (Run.SUCCEEDED, 23)
    products = await shop.products()
    what = {"seo_title": "SEO title", "seo_description": "SEO description"}[field]
    assert [getattr(products[product_id], field) for product_id in ids] == [
        f"{what} for Thing {number} | Shop" for number in range(1, 24)
    ]
    assert await shop.products(playbook_id) == {}


async def test_HP_005_a_new_preview_with_other_rules_pays_for_nothing_again(
    new_shop: Callable[[], Shop], openai: OpenAIServer
) -> None:
    shop = new_shop()
    await shop.open()
    await shop.stock(3)
    await shop.preview()
    calls = openai.stats().requests

    again = await shop.preview(rules=PlaybookRules(enabled=True, prefix="New: "))

    assert again.status == Run.SUCCEEDED
    assert not again.ai_used
    assert openai.stats().requests == calls
    assert all(item.final_suggestion.startswith("New: SEO title") for item in (await shop.draft(again.draft_id)).items)
