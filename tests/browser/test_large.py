"""A shop of 5,000 products and a history of 100,000 runs: the page asks for what it shows and no more."""

from urllib.parse import parse_qs, urlsplit

from playwright.async_api import expect

from tests.support.past import write_past
from tests.support.shop import TITLES, Shop
from tests.support.shop_page import DRAFT, PREVIEW, REFUSED, ShopPage

PRODUCTS, RUNS = 5_000, 100_000


def asked(page: ShopPage, path: str) -> list[dict[str, list[str]]]:
    """Return the queries of the requests that the page has sent to a path of the API, and forget all it has sent."""
    sent = [urlsplit(request.partition(" ")[2]) for request in page.requests]
    page.requests.clear()
    return [parse_qs(one.query) for one in sent if one.path.endswith(f"/automation-playbooks/{path}")]


async def test_a_history_of_100_000_runs_is_read_a_page_at_a_time(page: ShopPage, shop: Shop) -> None:
    page.tab.expected.append(f"{REFUSED} 410")  # of this past there is nothing but how it ended
    runs = write_past(shop.stack, shop.project, RUNS)
    await page.enter()
    await page.lists(*(run.id for run in runs[:50]))
    await page.is_live()
    assert asked(page, "runs") == [{"limit": ["50"]}]

    await page.button("Load more").click()
    await page.lists(*(run.id for run in runs[:100]))
    (query,) = asked(page, "runs")
    assert query.keys() == {"limit", "pageToken"}

    await page.page.get_by_label("Status").select_option("Failed")
    await page.lists(*(run.id for run in runs[999:50_000:1000]))
    assert asked(page, "runs") == [{"limit": ["50"], "status": ["FAILED"]}]
    await page.button("Load more").click()
    await page.lists(*(run.id for run in runs[999::1000]))
    await expect(page.button("Load more")).to_be_hidden()

    await page.page.get_by_label("Find by id").fill(runs[-1].id)
    await page.button("Find").click()
    await expect(page.page.locator(".failure")).to_contain_text("The AI provider did not answer.")
    await expect(page.page.get_by_role("list", name="Timeline")).to_contain_text("Older changes are not kept any more.")


async def test_a_draft_of_5_000_products_is_made_shown_and_applied(page: ShopPage, shop: Shop) -> None:
    ids = await shop.stock(PRODUCTS)
    await page.enter(view="playbooks", playbook=TITLES)
    await expect(page.page.locator(".figure").first).to_have_text("5,000products without SEO title")
    await page.button(PREVIEW).click()
    await expect(page.button(DRAFT)).to_be_enabled()
    await page.button(DRAFT).click()
    await expect(page.button("Apply to 5,000 products")).to_be_enabled(timeout=60_000)
    rows = page.page.locator("tr[data-product]")
    await expect(rows).to_have_count(50)
    page.requests.clear()
    await page.button("Show more").click()
    await expect(rows).to_have_count(100)
    await expect(page.suggestion(ids[99])).to_contain_text("SEO title for Thing 100")
    (query,) = asked(page, "products")
    assert query["productIds"] == ids[50:100]

    await page.button("Apply to 5,000 products").click()
    await page.dialog.get_by_role("button", name="Apply to 5,000 products").click()
    await page.says("Apply succeeded: 5,000 products updated")
    await page.link("Runs").click()
    await page.link("Apply").click()
    await expect(rows).to_have_count(100)
    await page.button("Show more").click()
    await expect(rows).to_have_count(200)
    assert len(asked(page, f"runs/{page.page.url.partition('run=')[2]}/items")) == 2
