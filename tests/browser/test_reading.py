"""Every view for eyes, screen readers and phones: axe-core finds nothing in light or dark, nothing sticks out."""

from itertools import product

from playwright.async_api import Locator, expect

from tests.support.browser import COLOURS, PHONE, SIZE, STANDARDS
from tests.support.openai_protocol import Behaviour
from tests.support.openai_server import OpenAIServer
from tests.support.shop import TITLES, Shop
from tests.support.shop_page import ShopPage

from .test_runs import UNKNOWN, stale_runs


async def reads_well(page: ShopPage, view: str) -> None:
    """Nothing is wrong with what the tab shows, in light and in dark, on a desk and on a phone."""
    for size, scheme in product((SIZE, PHONE), ("light", "dark")):
        await page.page.set_viewport_size(size)  # type: ignore[arg-type]
        await page.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        rules = STANDARDS if scheme == "light" else COLOURS  # nothing but colours is another thing in the dark
        assert await page.tab.violations(rules) == [], f"{view}, {scheme}, {size}"
        await page.fits()


async def test_runs_and_a_run_read_well(page: ShopPage, shop: Shop, openai: OpenAIServer) -> None:
    await page.go()
    await expect(page.page.get_by_role("heading", name="Your token, please")).to_be_visible()
    await reads_well(page, "token")

    await page.enter()
    await expect(page.page.get_by_role("heading", name="No runs yet")).to_be_visible()
    await reads_well(page, "no runs")

    await shop.stock(3)
    draft = await shop.draft_run(await shop.preview())
    applied = await shop.apply(draft)
    openai.behave(Behaviour(status=401))
    await shop.stock(1, prefix="new-")
    failed = await shop.preview()
    await stale_runs(shop, 1)
    await page.go()
    await page.row(failed.id).get_by_role("checkbox").check()
    await reads_well(page, "runs, one selected")
    await page.button("Retry 1 run").click()
    await reads_well(page, "a question")
    await page.button("Back").click()

    for run, seen in ((draft, "table.draft"), (applied, "table.items"), (failed, ".failure")):
        await page.go(run=run.id)
        await expect(page.page.locator(seen)).to_be_visible()
        await reads_well(page, f"a run with {seen}")


async def test_the_job_reads_well(page: ShopPage, shop: Shop) -> None:
    await page.enter(view="playbooks", playbook=TITLES)
    await expect(page.page.get_by_role("heading", name="This project has no products yet")).to_be_visible()
    await reads_well(page, "no products")

    await shop.stock(3)
    await page.button("Look again").click()
    await expect(page.page.get_by_role("heading", name="No draft yet")).to_be_visible()
    await reads_well(page, "no draft")

    preview = await shop.preview()
    await page.page.reload()
    await expect(page.page.locator("table.draft")).to_be_visible()
    await page.page.get_by_text("Edit rules").click()
    await page.page.get_by_label("Apply rules to the suggestions").check()
    await reads_well(page, "a preview with rules")
    await shop.draft_run(preview)
    await page.page.get_by_label("Apply rules to the suggestions").uncheck()
    await page.button("Apply to 3 products").click()
    await reads_well(page, "the question before an apply")


async def test_what_is_not_there_reads_well(page: ShopPage) -> None:
    page.tab.expected.append("status of 404")
    await page.enter(run=UNKNOWN)
    await expect(page.page.get_by_role("heading", name="There is no such run here")).to_be_visible()
    await reads_well(page, "no such run")


async def test_the_page_is_worked_with_keys_alone(page: ShopPage, shop: Shop) -> None:
    (run,) = await stale_runs(shop, 1)
    await page.enter()
    await page.is_live()
    await expect(page.row(run)).to_be_visible()
    keys = page.page.keyboard
    await keys.press("Tab")
    await expect(page.link("Skip to the content")).to_be_focused()
    await keys.press("Enter")
    await tab_to(page.row(run).get_by_role("checkbox"))
    await keys.press("Space")
    await tab_to(page.row(run).get_by_role("link"))
    await keys.press("Enter")
    await expect(page.page.locator(".failure")).to_be_visible()
    await expect(page.page.locator("#main")).to_be_focused()


async def tab_to(element: Locator) -> None:
    """Press Tab until an element has the focus."""
    for _ in range(40):
        if await element.evaluate("(one) => one === document.activeElement"):
            return
        await element.page.keyboard.press("Tab")
    raise AssertionError("not reached within 40 presses of Tab")
