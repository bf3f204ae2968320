"""REG-001 to REG-003: the older endpoints, neighbours, and what is left behind."""

from collections.abc import Callable

import pytest
from playbooks.runs.v1 import runs_service_pb2 as pb
from playbooks.runs.v1.run_pb2 import Draft, Run, RunItem, RunMeta

from devstack.stack import Stack
from tests.support.audit import audit
from tests.support.shop import TITLES, Shop

LEAST_RUNS = {"e2e": 50, "command line": 10}


async def test_REG_001_the_synchronous_endpoints_work_and_leave_runs(shop: Shop) -> None:
    ids = await shop.stock(4)

    previewed = await shop.runs().PreviewPlaybook(
        pb.PreviewPlaybookRequest(project_id=shop.project, playbook_id=TITLES, meta=RunMeta(sample_size=2)),
        **shop.auth("EDITOR"),
    )

    assert previewed.run.status == Run.SUCCEEDED
    assert previewed.draft.id == previewed.run.draft_id
    assert previewed.draft.status == Draft.PARTIAL
    assert [item.product_id for item in previewed.draft.items] == ids[:2]

    applied = await shop.runs(1).ApplyPlaybook(
        pb.ApplyPlaybookRequest(
            project_id=shop.project,
            playbook_id=TITLES,
            scope_id=previewed.run.scope_id,
            rules_hash=previewed.run.rules_hash,
        ),
        **shop.auth("OWNER"),
    )

    assert applied.run.status == Run.SUCCEEDED
    assert [(item.product_id, item.status) for item in applied.items] == list(
        zip(ids, [RunItem.UPDATED] * 2 + [RunItem.SKIPPED] * 2, strict=True)
    )
    listed = await shop.runs().ListRuns(pb.ListRunsRequest(project_id=shop.project), **shop.auth())
    assert [run.id for run in listed.runs] == [applied.run.id, previewed.run.id]


async def test_REG_001_a_synchronous_apply_that_is_stale_says_so(shop: Shop) -> None:
    await shop.stock(1)
    applied = await shop.runs().ApplyPlaybook(
        pb.ApplyPlaybookRequest(project_id=shop.project, playbook_id=TITLES, scope_id="old", rules_hash="old"),
        **shop.auth(),
    )
    assert (applied.run.status, applied.run.error_code) == (Run.STALE, "PLAYBOOK_SCOPE_INVALID")
    assert not applied.items


async def test_REG_002_projects_with_the_same_ids_and_keys_do_not_interfere(new_shop: Callable[[], Shop]) -> None:
    one, two = new_shop(), new_shop()
    for shop in (one, two):
        await shop.open()
        await shop.put(id="same", title=f"Thing of {shop.project}")
    previews = [(await shop.create(Run.PREVIEW_GENERATE, idempotency_key="same")).run for shop in (one, two)]
    assert previews[0].id != previews[1].id
    ended = [await shop.ended(run) for shop, run in zip((one, two), previews, strict=True)]
    assert ended[0].scope_id != ended[1].scope_id

    applied = await one.apply(ended[0])

    assert applied.result.updated == 1
    assert (await one.products())["same"].seo_title == f"SEO title for Thing of {one.project}"
    assert (await two.products())["same"].seo_title == ""
    foreign_scope = await two.apply(ended[0])
    assert (foreign_scope.status, foreign_scope.error_code) == (Run.STALE, "PLAYBOOK_SCOPE_INVALID")


@pytest.mark.parametrize("group", ["e2e", "command line"])
async def test_REG_003_after_the_suite_nothing_is_left_behind(stack: Stack, group: str) -> None:
    """Runs last on the stack of each group (see conftest.py, here and above).

    What is under way may end; then no run, queue, inbox or outbox holds anything.
    """
    assert await audit(stack) > LEAST_RUNS[group], "this test ran alone and shows nothing"
