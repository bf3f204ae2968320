"""What runs make: drafts, applied products, and the ends they come to."""

import asyncio
from datetime import timedelta

import pytest
from playbooks.runs.v1.run_pb2 import PlaybookRules

from executor_service.ai.errors import AIError, AIRefusedError
from executor_service.domain.draft import DraftStatus, ItemStatus, RunItem
from executor_service.domain.execution import Status
from executor_service.playbooks.playbook import playbook
from executor_service.playbooks.quota import Plan
from executor_service.playbooks.rules import Rules
from executor_service.store.projects import Projects
from executor_service.work.generate import DRAFT_LIFETIME
from tests.support.executor import DESCRIPTIONS, TITLES, Bench

RULES = PlaybookRules(enabled=True, suffix=" | Shop")
AI_DOWN = AIError("AI_PROVIDER_ERROR", "The provider is down", "Try again later.")


@pytest.fixture(autouse=True)
async def _working(bench: Bench):
    async with bench.working():
        yield


# Drafts


async def test_products_of_one_content_are_asked_for_and_charged_once(bench: Bench) -> None:
    await bench.stock(1, plan=Plan.PRO, limit=2)
    for product_id in ("a", "b", "c"):
        await bench.put(product_id, title="Gift card")
    assert not (await bench.estimator.estimate("p", playbook(TITLES), Rules())).reasons
    preview = await bench.preview(sample=3)
    assert preview.result == {"affected_total": 4, "draft_generated": 3, "no_suggestion_count": 0}
    assert (preview.completed, preview.total) == (3, 3)
    draft = await bench.draft(preview)
    assert (draft.ai_used, draft.completed, draft.total) == (False, 4, 4)
    assert await bench.ai_used() == bench.provider.asked.total() == 2
    texts = [item.final_suggestion for item in (await bench.latest_draft()).items]
    assert texts == ["Thing 0 by AI", *["Gift card by AI"] * 3]


async def test_products_of_one_content_go_without_a_suggestion_together(bench: Bench) -> None:
    await bench.stock(0)
    for product_id in ("a", "b", "c"):
        await bench.put(product_id, title="Gift card" if product_id != "c" else "Mug")
    bench.provider.blank = {"a"}
    preview = await bench.preview(sample=3)
    assert preview.result == {"affected_total": 3, "draft_generated": 1, "no_suggestion_count": 2}
    assert await bench.ai_used() == 1


async def test_a_preview_is_of_the_first_products_by_id(bench: Bench) -> None:
    ids = await bench.stock(5)
    state = await bench.preview(sample=2, rules=RULES)
    whole = await bench.latest_draft()
    assert [item.product_id for item in whole.items] == ids[:2]
    assert whole.items[0].raw_suggestion == "Thing 0 by AI"
    assert whole.items[0].final_suggestion == "Thing 0 by AI | Shop"
    assert whole.draft.status is DraftStatus.PARTIAL
    assert state.result == {"affected_total": 5, "draft_generated": 2, "no_suggestion_count": 0}
    assert state.ai_used


async def test_a_draft_asks_only_for_what_is_missing_and_stays_the_same_draft(bench: Bench) -> None:
    ids = await bench.stock(5)
    preview = await bench.preview(rules=RULES)
    draft = await bench.draft(preview)
    assert draft.draft_id == preview.draft_id
    assert bench.provider.asked == dict.fromkeys(ids, 1)
    whole = await bench.latest_draft()
    assert whole.draft.status is DraftStatus.READY
    assert [item.final_suggestion for item in whole.items] == [f"Thing {n} by AI | Shop" for n in range(5)]


async def test_other_rules_cost_no_ai_call(bench: Bench) -> None:
    await bench.stock(3)
    first = await bench.preview()
    second = await bench.preview(rules=RULES)
    assert not second.ai_used
    assert second.draft_id != first.draft_id
    assert bench.provider.requests == 2


async def test_changed_content_is_asked_for_anew(bench: Bench) -> None:
    await bench.stock(1)
    await bench.preview()
    await bench.put("00000", title="Another thing")
    await bench.preview()
    assert bench.provider.asked["00000"] == 2


async def test_without_usable_suggestions_the_draft_has_failed(bench: Bench) -> None:
    bench.provider.blank = set(await bench.stock(2))
    state = await bench.preview()
    assert state.result == {"affected_total": 2, "draft_generated": 0, "no_suggestion_count": 2}
    assert (await bench.latest_draft()).draft.status is DraftStatus.FAILED


async def test_a_preview_without_affected_products_succeeds_with_zeros(bench: Bench) -> None:
    await bench.stock(0)
    state = await bench.preview()
    assert state.result == {"affected_total": 0, "draft_generated": 0, "no_suggestion_count": 0}
    assert state.scope_id
    assert not state.ai_used


async def test_a_failed_run_leaves_the_draft_as_it_was_and_keeps_what_arrived(bench: Bench) -> None:
    ids = await bench.stock(6)  # three requests of two, two at a time
    preview = await bench.preview(sample=1)
    before = await bench.latest_draft()
    bench.provider.failing = {ids[-1]: AI_DOWN}

    failed = await bench.draft(preview, expect=Status.FAILED)

    assert failed.error_code == "AI_PROVIDER_ERROR"
    assert await bench.latest_draft() == before
    bench.provider.failing = {}
    asked = dict(bench.provider.asked)
    await bench.draft(preview)
    again = {product for product in ids if bench.provider.asked[product] > asked[product]}
    assert again == {ids[-1]}  # the sixth product: five came in before


async def test_products_that_the_provider_refuses_do_not_fail_the_others(bench: Bench) -> None:
    ids = await bench.stock(4)
    bench.provider.failing = {ids[0]: AIRefusedError(2)}
    state = await bench.preview(sample=4)
    assert state.result == {"affected_total": 4, "draft_generated": 2, "no_suggestion_count": 2}


async def test_a_run_whose_products_are_all_refused_fails(bench: Bench) -> None:
    ids = await bench.stock(2)
    bench.provider.failing = {ids[0]: AIRefusedError(2)}
    assert (await bench.preview(expect=Status.FAILED)).error_code == "AI_INVALID_RESPONSE"


@pytest.mark.parametrize("run", ["preview", "draft"])
async def test_a_scope_that_changes_during_the_ai_work_makes_the_run_stale(bench: Bench, run: str) -> None:
    await bench.stock(4)
    preview = await bench.preview(sample=1)
    before = await bench.latest_draft()
    bench.provider.open.clear()
    bench.provider.waiting.clear()
    running = asyncio.create_task(
        bench.draft(preview, expect=Status.STALE) if run == "draft" else bench.preview(expect=Status.STALE)
    )
    await bench.provider.waiting.wait()
    await bench.put("new")
    bench.provider.open.set()
    assert (await running).error_code == "PLAYBOOK_SCOPE_INVALID"
    assert await bench.latest_draft() == before


# Apply


async def test_apply_updates_the_suggested_products_and_skips_the_others(bench: Bench) -> None:
    ids = await bench.stock(5)
    preview = await bench.preview(sample=2)
    requests = bench.provider.requests

    state = await bench.applied(preview)

    assert state.result == {"total_affected": 5, "attempted": 2, "updated": 2, "skipped": 3, "failed": 0}
    assert not state.ai_used
    assert bench.provider.requests == requests
    assert list((await bench.titles()).values()) == ["Thing 0 by AI", "Thing 1 by AI", "", "", ""]
    page = await bench.queries.run_items("p", state.run_id, limit=4, page_token="")
    rest = await bench.queries.run_items("p", state.run_id, limit=4, page_token=page.next_token)
    items = [*page.rows, *rest.rows]
    assert [(item.product_id, item.status.value) for item in items] == [
        *((product_id, "UPDATED") for product_id in ids[:2]),
        *((product_id, "SKIPPED") for product_id in ids[2:]),
    ]
    assert "no usable SEO title" in items[-1].message
    assert not rest.next_token


@pytest.mark.parametrize("limit", [700, 1_000])
async def test_the_items_of_a_large_apply_come_in_pages_by_product_id(bench: Bench, limit: int) -> None:
    ids = await bench.stock(2_300)
    state = await bench.applied(await bench.preview(sample=2))
    found: list[RunItem] = []
    token, pages = "", 0
    while token or not pages:
        page = await bench.queries.run_items("p", state.run_id, limit=limit, page_token=token)
        found += page.rows
        token, pages = page.next_token, pages + 1
    assert [item.product_id for item in found] == sorted(ids)
    assert [item.status for item in found] == [ItemStatus.UPDATED] * 2 + [ItemStatus.SKIPPED] * 2_298
    assert pages == -(-2_300 // limit)


async def test_an_apply_that_waits_past_its_deadline_writes_nothing(bench: Bench, other: Bench) -> None:
    await bench.stock(1)
    preview = await bench.preview()
    late = bench.clock.now() + timedelta(seconds=0.3)
    async with other.database.transaction() as connection:
        await Projects(connection).lock("p")
        state = await bench.applied(preview, deadline=late, expect=Status.FAILED)
    assert state.error_code == "RUN_DEADLINE_EXCEEDED"
    assert await bench.titles() == {"00000": ""}
    assert (await bench.applied(preview)).result["updated"] == 1


async def test_apply_of_the_other_playbook_leaves_the_title_alone(bench: Bench) -> None:
    await bench.stock(2)
    preview = await bench.preview(playbook_id=DESCRIPTIONS)
    await bench.applied(preview, playbook_id=DESCRIPTIONS)
    assert set((await bench.titles()).values()) == {""}


async def test_apply_twice_writes_once(bench: Bench) -> None:
    await bench.stock(3)
    preview = await bench.preview()
    await bench.applied(preview)
    assert (await bench.applied(preview, expect=Status.STALE)).error_code == "PLAYBOOK_SCOPE_INVALID"


async def test_two_applies_at_once_write_once(bench: Bench) -> None:
    await bench.stock(3)
    preview = await bench.preview()
    ends = await asyncio.gather(
        bench.applied(preview, expect=Status.SUCCEEDED),
        bench.applied(preview, expect=Status.STALE),
        return_exceptions=True,
    )
    # Whichever came first: one did, one did not.
    wrong = [end for end in ends if isinstance(end, BaseException)]
    assert len(wrong) in (0, 2)
    assert await bench.value("SELECT count(*) FROM executor.run_items WHERE status = 'UPDATED'") == 3


async def test_apply_without_affected_products_succeeds_with_zeros(bench: Bench) -> None:
    await bench.stock(0)
    preview = await bench.preview()
    state = await bench.applied(preview)
    assert state.result == {"total_affected": 0, "attempted": 0, "updated": 0, "skipped": 0, "failed": 0}


# Why runs go stale or fail


@pytest.mark.parametrize("run", ["draft", "applied"])
async def test_another_scope_is_stale_and_names_both(bench: Bench, run: str) -> None:
    await bench.stock(2)
    preview = await bench.preview()
    await bench.put("new")
    stale = await getattr(bench, run)(preview, expect=Status.STALE)
    current = await bench.preview()
    assert stale.error_code == "PLAYBOOK_SCOPE_INVALID"
    assert preview.scope_id in stale.error_message
    assert current.scope_id in stale.error_message


@pytest.mark.parametrize("run", ["draft", "applied"])
async def test_without_a_draft_the_run_is_stale(bench: Bench, run: str) -> None:
    await bench.stock(2)
    preview = await bench.preview()
    await bench.rows("DELETE FROM executor.drafts")
    assert (await getattr(bench, run)(preview, expect=Status.STALE)).error_code == "PLAYBOOK_DRAFT_NOT_FOUND"


@pytest.mark.parametrize("run", ["draft", "applied"])
async def test_an_expired_draft_is_stale_and_can_still_be_read(bench: Bench, run: str) -> None:
    await bench.stock(2)
    preview = await bench.preview()
    bench.clock.advance(DRAFT_LIFETIME - timedelta(seconds=1))
    assert (await bench.latest_draft()).draft.status_at(bench.clock.now()) is DraftStatus.PARTIAL
    bench.clock.advance(timedelta(seconds=1))
    assert (await bench.latest_draft()).draft.status_at(bench.clock.now()) is DraftStatus.EXPIRED
    assert (await getattr(bench, run)(preview, expect=Status.STALE)).error_code == "PLAYBOOK_DRAFT_EXPIRED"


@pytest.mark.parametrize("run", ["draft", "applied"])
async def test_other_rules_than_the_drafts_are_stale(bench: Bench, run: str) -> None:
    await bench.stock(2)
    preview = await bench.preview()
    stale = await getattr(bench, run)(preview, rules_hash="0123456789abcdef", expect=Status.STALE)
    assert stale.error_code == "PLAYBOOK_RULES_CHANGED"
    assert preview.rules_hash in stale.error_message


async def test_apply_goes_by_the_latest_draft_of_the_scope(bench: Bench) -> None:
    await bench.stock(2)
    first = await bench.preview()
    bench.clock.advance(timedelta(seconds=1))
    await bench.preview(rules=RULES)
    assert (await bench.applied(first, expect=Status.STALE)).error_code == "PLAYBOOK_RULES_CHANGED"
    # A draft may be completed under the rules it was made with, also when others came later.
    await bench.draft(first)


async def test_rules_that_are_stated_must_have_the_stated_hash(bench: Bench) -> None:
    await bench.stock(2)
    preview = await bench.preview()
    assert (await bench.draft(preview, rules=RULES, expect=Status.STALE)).error_code == "PLAYBOOK_RULES_CHANGED"
    stale = await bench.preview(rules=RULES, rules_hash=preview.rules_hash, expect=Status.STALE)
    assert stale.error_code == "PLAYBOOK_RULES_CHANGED"


@pytest.mark.parametrize("run", ["preview", "draft", "applied"])
async def test_an_unknown_project_fails(bench: Bench, run: str) -> None:
    await bench.stock(1)
    preview = await bench.preview()
    arguments = () if run == "preview" else (preview,)
    failed = await getattr(bench, run)(*arguments, project="nobody", expect=Status.FAILED)
    assert failed.error_code == "PROJECT_NOT_FOUND"


async def test_the_free_plan_has_no_ai_but_may_apply(bench: Bench) -> None:
    await bench.stock(2)
    preview = await bench.preview()
    await bench.stock(0, plan=Plan.FREE, limit=50)
    assert (await bench.preview(expect=Status.FAILED)).error_code == "PLAN_NOT_ELIGIBLE"
    assert (await bench.draft(preview, expect=Status.FAILED)).error_code == "PLAN_NOT_ELIGIBLE"
    await bench.applied(preview)


async def test_a_failure_whose_text_cannot_be_stored_is_still_reported(bench: Bench) -> None:
    ids = await bench.stock(1)
    bench.provider.failing = {ids[0]: AIError("AI_PROVIDER_ERROR", "It said \0 and \ud800", "Try again.")}
    failed = await bench.preview(expect=Status.FAILED)
    assert failed.error_message == "It said  and ?. Try again."
