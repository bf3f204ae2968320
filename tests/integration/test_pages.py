"""Pages: whole drafts and parts of them, tokens and what they are good for, and how large a page may be."""

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from playbooks.executor.v1.executor_service_pb2 import GetDraftResponse
from playbooks.runs.v1.run_pb2 import PlaybookRules

from executor_service import messages
from executor_service.domain.catalog import Product
from executor_service.domain.draft import Draft, DraftItem, DraftKey, DraftPage, DraftStatus
from executor_service.domain.paging import MAX_LIMIT, PAGE_BYTES
from executor_service.playbooks.playbook import MISSING_SEO_DESCRIPTION
from executor_service.store.drafts import Drafts
from servicekit.errors import Reason, ServiceError
from tests.support.executor import DESCRIPTIONS, Bench

CLIENT_TAKES = 4 * 1024 * 1024  # bytes of a message that a gRPC client takes if it says nothing
LONGEST = "🏔" * MISSING_SEO_DESCRIPTION.field_limit
RULES = "0123456789abcdef"

Ask = Callable[..., Awaitable[DraftPage]]


async def write(bench: Bench, items: list[DraftItem], *, rules_hash: str = RULES) -> Draft:
    """Write a draft as a run does, or write it again."""
    now = bench.clock.now()
    draft = Draft(
        id=uuid4(),
        key=DraftKey("p", DESCRIPTIONS, "scope", rules_hash),
        rules={},
        run_id=uuid4(),
        status=DraftStatus.READY,
        affected_total=len(items),
        draft_generated=len(items),
        no_suggestion_count=0,
        model="m",
        created_at=now,
        updated_at=now,
        expires_at=now + timedelta(days=1),
    )
    async with bench.database.transaction() as connection:
        await Drafts(connection).put(draft, items)
    page = await bench.queries.latest_draft("p", DESCRIPTIONS)
    return page.draft


def items(count: int, text: str = "Good.") -> list[DraftItem]:
    return [DraftItem(f"{n:05}", text, f"{text} {n}"[:5000], ("trimmed_to_max_length",)) for n in range(count)]


async def pages(ask: Ask, *arguments: Any, limit: int = 0) -> AsyncIterator[DraftPage]:
    token = ""
    while True:
        page = await ask(*arguments, limit=limit, page_token=token)
        assert messages_size(page) < CLIENT_TAKES
        yield page
        token = page.next_token
        if not token:
            return


def messages_size(page: DraftPage) -> int:
    draft = messages.draft(page, page.draft.updated_at)
    return GetDraftResponse(draft=draft, next_page_token=page.next_token).ByteSize()


async def refused(ask: Awaitable[object]) -> str:
    with pytest.raises(ServiceError) as refusal:
        await ask
    assert refusal.value.reason is Reason.PAGE_TOKEN_INVALID
    assert [violation.field for violation in refusal.value.violations] == ["page_token"]
    return refusal.value.message


@pytest.fixture(params=["by id", "latest"])
def ask(request: pytest.FixtureRequest, bench: Bench) -> Callable[[Draft], tuple[Any, ...]]:
    """How a draft is asked for: the method and its arguments."""
    if request.param == "latest":
        return lambda _: (bench.queries.latest_draft, "p", DESCRIPTIONS)
    return lambda draft: (bench.queries.draft, "p", draft.id)


# Drafts


@pytest.mark.parametrize("count", [0, 1, MAX_LIMIT])
async def test_a_small_draft_comes_whole(bench: Bench, ask: Any, count: int) -> None:
    method, *arguments = ask(await write(bench, items(count)))
    page = await method(*arguments)
    assert page.items == items(count)
    assert page.next_token == ""


@pytest.mark.parametrize("limit", [0, 999, 5_000])
async def test_a_large_draft_comes_in_pages_by_product_id(bench: Bench, ask: Any, limit: int) -> None:
    count = 2 * MAX_LIMIT + 1
    draft = await write(bench, items(count)[::-1])
    found = [page async for page in pages(*ask(draft), limit=limit)]
    size = 999 if limit == 999 else MAX_LIMIT
    assert [len(page.items) for page in found] == [size, size, count - 2 * size]
    assert [item for page in found for item in page.items] == items(count)
    assert all(page.draft == draft for page in found)  # each with the counts of the whole


async def test_a_preview_comes_whole_however_long_its_texts_are(bench: Bench, ask: Any) -> None:
    """PreviewPlaybook reads one page of it."""
    method, *arguments = ask(await write(bench, items(50, LONGEST)))
    page = await method(*arguments)
    assert len(page.items) == 50
    assert messages_size(page) < CLIENT_TAKES


async def test_a_page_of_long_texts_is_bounded(bench: Bench, ask: Any) -> None:
    draft = await write(bench, items(200, LONGEST))
    found = [page async for page in pages(*ask(draft))]
    bytes_each = 2 * len(LONGEST.encode())
    assert len(found) == math.ceil(200 / math.ceil(PAGE_BYTES / bytes_each))
    assert [item.product_id for page in found for item in page.items] == [item.product_id for item in items(200)]


async def test_pages_of_two_states_of_a_draft_are_not_mixed(bench: Bench, ask: Any) -> None:
    draft = await write(bench, items(3))
    method, *arguments = ask(draft)
    first = await method(*arguments, limit=1)
    again = await write(bench, items(3))  # the same draft, within the same microsecond
    assert (again.id, again.updated_at) == (draft.id, draft.updated_at)
    message = await refused(method(*arguments, limit=1, page_token=first.next_token))
    assert "start again without page_token" in message
    rest = [page async for page in pages(method, *arguments, limit=2)]
    assert [len(page.items) for page in rest] == [2, 1]


async def test_pages_of_the_latest_draft_are_of_one_draft(bench: Bench) -> None:
    draft = await write(bench, items(3))
    latest = await bench.queries.latest_draft("p", DESCRIPTIONS, limit=1)
    by_id = await bench.queries.draft("p", draft.id, limit=1)
    bench.clock.advance(timedelta(seconds=1))
    await write(bench, items(5), rules_hash="f" * 16)
    await refused(bench.queries.latest_draft("p", DESCRIPTIONS, limit=1, page_token=latest.next_token))
    next_page = await bench.queries.draft("p", draft.id, limit=1, page_token=by_id.next_token)
    assert [item.product_id for item in next_page.items] == ["00001"]


async def test_a_token_is_good_for_its_own_call_only(bench: Bench) -> None:
    first = await write(bench, items(3))
    bench.clock.advance(timedelta(seconds=1))
    second = await write(bench, items(3), rules_hash="f" * 16)
    token = (await bench.queries.draft("p", second.id, limit=1)).next_token
    await refused(bench.queries.draft("p", first.id, limit=1, page_token=token))
    await refused(bench.queries.latest_draft("p", DESCRIPTIONS, limit=1, page_token=token))
    await refused(bench.queries.draft("p", second.id, limit=1, page_token=token[:-1]))
    products = await _stocked(bench)
    await refused(bench.queries.draft("p", second.id, page_token=products))
    await refused(bench.catalog.products("p", "", limit=1, page_token=token))


async def _stocked(bench: Bench) -> str:
    await bench.stock(2)
    return (await bench.catalog.products("p", "", limit=1, page_token="")).next_token


async def test_a_page_costs_the_same_wherever_it_is(bench: Bench) -> None:
    """What the statement reads of the items is the page, not what comes before it."""
    draft = await write(bench, items(20_000))
    await bench.rows("ANALYZE executor.draft_items")

    async def read(after: str) -> int:
        reads = "SELECT idx_tup_fetch + idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = 'draft_items_pkey'"

        async def counted() -> int:
            await bench.rows("SELECT pg_stat_force_next_flush()")
            value: int = await bench.value(reads)
            return value

        before = await counted()
        await Drafts(bench.database).find("p", draft.id, after=after, limit=100)
        return await counted() - before

    assert await read("19800") == await read("")


# Products


async def test_a_page_of_long_products_is_bounded(bench: Bench) -> None:
    await bench.stock(0)
    put = [Product(f"{n:03}", "", "T", "🏔" * 65_536, "", "") for n in range(40)]
    for start in range(0, 40, 10):
        await bench.catalog.put_products("p", put[start : start + 10])
    for playbook_id in ("", DESCRIPTIONS):
        found: list[Product] = []
        token = ""
        while True:
            page = await bench.catalog.products("p", playbook_id, limit=1000, page_token=token)
            assert sum(messages.product(product).ByteSize() for product in page.rows) < CLIENT_TAKES
            assert len(page.rows) == 8 < PAGE_BYTES / 65_536 / 4 + 1
            found += page.rows
            token = page.next_token
            if not token:
                break
        assert found == put


@pytest.mark.parametrize("count", [0, 1, 3, 4])
async def test_pages_of_products_end_where_the_products_end(bench: Bench, count: int) -> None:
    ids = await bench.stock(count)
    first = await bench.catalog.products("p", "", limit=3, page_token="")
    assert [product.id for product in first.rows] == ids[:3]
    assert bool(first.next_token) == (count > 3)


async def test_products_by_their_ids(bench: Bench) -> None:
    ids = await bench.stock(5)
    await bench.catalog.put_products("p", [Product(ids[1], "", "T", "D", "has one", "D")])
    wanted = [ids[4], ids[1], "none", ids[3], ids[1]]
    first = await bench.catalog.products("p", "", ids=wanted, limit=2, page_token="")
    rest = await bench.catalog.products("p", "", ids=wanted[::-1], limit=2, page_token=first.next_token)
    assert [product.id for product in (*first.rows, *rest.rows)] == [ids[1], ids[3], ids[4]]
    assert rest.next_token == ""
    affected = await bench.catalog.products("p", "missing_seo_title", ids=wanted, limit=9, page_token="")
    assert [product.id for product in affected.rows] == [ids[3], ids[4]]
    await refused(bench.catalog.products("p", "", ids=wanted[:2], limit=2, page_token=first.next_token))


# An APPLY's items


async def test_pages_of_items_end_where_the_items_end(bench: Bench) -> None:
    ids = await bench.stock(4)
    async with bench.working():
        preview = await bench.preview(sample=4, rules=PlaybookRules(enabled=True))
        applied = await bench.applied(preview)
    first = await bench.queries.run_items("p", applied.run_id, limit=3, page_token="")
    last = await bench.queries.run_items("p", applied.run_id, limit=3, page_token=first.next_token)
    assert [item.product_id for item in (*first.rows, *last.rows)] == ids
    assert last.next_token == ""
