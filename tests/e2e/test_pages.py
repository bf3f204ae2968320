"""Drafts and catalogs that are larger than a message, through clients as they come."""

import asyncio

import psycopg
from playbooks.executor.v1 import catalog_service_pb2 as catalog
from playbooks.executor.v1 import executor_service_pb2 as executor
from playbooks.runs.v1.run_pb2 import Run

from runs_client.executor import ExecutorClient
from tests.support.crowd import insert_products
from tests.support.shop import TITLES, Shop, log_lines

LARGE = 60_000  # items: 6 MB, more than a message


def enlarge(url: str, draft_id: str, count: int) -> None:
    """Write a draft's items anew: so many, of 100 bytes."""
    with psycopg.connect(url) as database:
        database.execute("DELETE FROM executor.draft_items WHERE draft_id = %s", (draft_id,))
        database.execute(
            """INSERT INTO executor.draft_items
               SELECT %s, 'product-' || lpad(n::text, 8, '0'), repeat('a', 40), repeat('b', 40), '{}'
               FROM generate_series(1, %s) AS n""",
            (draft_id, count),
        )


async def test_a_draft_of_any_size_is_read_in_pages(shop: Shop) -> None:
    await shop.stock(1)
    preview = await shop.preview()
    await asyncio.to_thread(enlarge, shop.stack.postgres.url(database="playbook_runs"), preview.draft_id, LARGE)
    request = executor.GetLatestDraftRequest(project_id=shop.project, playbook_id=TITLES)
    page = await shop.executor.GetLatestDraft(request, **shop.auth("VIEWER"))
    assert len(page.draft.items) == 1_000
    assert page.next_page_token
    async with ExecutorClient(shop.stack.executor_target, token=shop.stack.token(shop.project, "VIEWER")) as client:
        whole = [
            await client.get_draft(shop.project, preview.draft_id),
            await client.get_latest_draft(shop.project, TITLES),
        ]
    ids = [f"product-{n:08}" for n in range(1, LARGE + 1)]
    assert all([item.product_id for item in draft.items] == ids for draft in whole)
    for service in shop.stack.executors:
        assert not log_lines(service.log, "Draft", '"ERROR"')


async def test_pages_are_no_larger_than_what_a_client_takes(shop: Shop) -> None:
    """The test's channels say nothing about it, so that is 4 MB."""
    products = [catalog.Product(id=f"p{n:02}", title="T", description="🏔" * 65_536) for n in range(40)]
    for start in range(0, 40, 3):
        put = catalog.PutProductsRequest(project_id=shop.project, products=products[start : start + 3])
        await shop.catalog.PutProducts(put, **shop.auth())
    assert list((await shop.products()).values()) == products
    assert list((await shop.products(TITLES)).values()) == products


async def test_runs_of_a_large_project_go_through_from_preview_to_apply(shop: Shop) -> None:
    count = 5_000
    url = shop.stack.postgres.url(database="playbook_runs")
    await asyncio.to_thread(insert_products, url, shop.project, count)
    preview = await shop.preview()
    draft = await shop.draft_run(preview)
    assert (draft.status, draft.result.draft_generated) == (Run.SUCCEEDED, count)
    applied = await shop.apply(preview)
    assert (applied.status, applied.result.updated) == (Run.SUCCEEDED, count)
