"""The job of a playbook by clicks, from an empty project to an improved catalog, and what each role may do of it."""

import re

from playbooks.executor.v1 import catalog_service_pb2 as catalog
from playbooks.runs.v1.run_pb2 import PlaybookRules
from playwright.async_api import expect

from tests.support.openai_server import OpenAIServer
from tests.support.shop import TITLES, Shop
from tests.support.shop_page import DRAFT, PREVIEW, ShopPage

NOTHING = "No product is without SEO title: there is nothing to do."


async def test_the_whole_job_by_clicks(page: ShopPage, shop: Shop, openai: OpenAIServer) -> None:
    await page.enter()
    await expect(page.page.get_by_role("heading", name="No runs yet")).to_be_visible()
    await page.link("Open the playbooks").click()
    await expect(page.page.get_by_role("heading", name="This project has no products yet")).to_be_visible()
    await expect(page.page.locator(".missing")).to_contain_text(
        f"playbook-runs import products_export.csv --project {shop.project}"
    )
    await expect(page.button(PREVIEW)).to_be_hidden()

    ids = await shop.stock(4)  # imported meanwhile
    await page.button("Look again").click()
    await expect(page.page.locator(".figure").first).to_have_text("4products without SEO title")
    await page.is_blocked(DRAFT, "Generate a preview first.")
    await page.button(PREVIEW).click()
    await expect(page.suggestion(ids[0])).to_contain_text("SEO title for Thing 1")
    await expect(page.suggestion(ids[0])).to_contain_text("Empty")
    await expect(page.suggestion(ids[3])).to_have_count(0)
    await page.is_blocked(
        "Apply to 3 products", "Generate the full draft first: this preview has suggestions for 3 of 4 products."
    )

    await page.button(DRAFT).click()
    await expect(page.suggestion(ids[3])).to_contain_text("SEO title for Thing 4")
    asked = openai.stats().requests
    await page.button("Apply to 4 products").click()
    await expect(page.dialog).to_contain_text("SEO title for Thing 1")
    await page.button("Back").click()
    await page.button("Apply to 4 products").click()
    await page.page.keyboard.press("Escape")
    await expect(page.dialog).to_have_count(0)
    await page.button("Apply to 4 products").click()
    await page.dialog.get_by_role("button", name="Apply to 4 products").click()
    await expect(page.page.locator(".banner-done")).to_have_text("Applied: 4 products updated.")
    await expect(page.page.locator(".draft-head")).to_contain_text(re.compile("Applied.*4 of 4 products.*applied"))
    await expect(page.page.locator(".draft-head")).not_to_contain_text("can be applied")
    await page.is_blocked(PREVIEW, NOTHING)
    assert [product.seo_title for product in (await shop.products()).values()] == [
        f"SEO title for Thing {number}" for number in range(1, 5)
    ]
    assert openai.stats().requests == asked  # an apply asks no AI

    await page.link("Runs").click()
    await expect(page.rows).to_have_count(3)  # and no run of the questions that were answered with no
    await page.link("Apply").click()
    await expect(page.suggestion(ids[0])).to_contain_text("Updated")
    await expect(page.page.get_by_role("list", name="Timeline")).to_contain_text(
        re.compile("Queued.*Started.*Succeeded")
    )


async def test_what_is_stale_says_so_and_offers_the_new_preview(page: ShopPage, shop: Shop) -> None:
    ids = await shop.stock(3)
    await shop.draft_run(await shop.preview())
    await page.enter(view="playbooks", playbook=TITLES)
    await expect(page.button("Apply to 3 products")).to_be_enabled()
    await shop.delete(ids[0])
    await page.page.reload()
    await expect(page.page.locator(".stale")).to_contain_text("The products have changed since this draft was made")
    await page.is_blocked("Apply to 0 products", "Generate a new preview first.")
    await page.button("Generate a new preview (uses AI)").click()
    await expect(page.page.locator(".stale")).to_have_count(0)
    await expect(page.suggestion(ids[0])).to_have_count(0)
    await page.button(DRAFT).click()
    await expect(page.button("Apply to 2 products")).to_be_enabled()


async def test_rules_are_edited_and_show_in_the_suggestions(page: ShopPage, shop: Shop) -> None:
    (product,) = await shop.stock(1)
    await page.enter(view="playbooks", playbook=TITLES)
    await page.page.get_by_text("Edit rules").click()
    await page.page.get_by_label("Apply rules to the suggestions").check()
    await page.page.get_by_label("Prefix").fill("New: ")
    await page.page.get_by_label("Maximum length").fill("12")
    await page.page.get_by_label("Forbidden phrases").fill("new:")
    await page.button(PREVIEW).click()
    for words in ("New: SEO tit", "Cut to the maximum length", "Has a forbidden phrase"):
        await expect(page.suggestion(product)).to_contain_text(words)
    draft = await shop.latest_draft()
    assert draft.items[0].final_suggestion == "New: SEO tit"

    await page.page.get_by_label("Prefix").fill("Old: ")
    await expect(page.page.locator(".stale")).to_contain_text("The rules have changed since this draft was made.")


async def test_a_failed_preview_says_what_to_do_and_an_allowance_when_it_is_new(page: ShopPage, shop: Shop) -> None:
    await shop.open(plan=catalog.Project.PRO, limit=2)
    await shop.stock(3)
    await page.enter(view="playbooks", playbook=TITLES)
    await expect(page.page.locator(".figure").nth(1)).to_contain_text(
        re.compile(r"2of 2 AI suggestions left today.*resets")
    )
    await page.page.get_by_label("Products to preview").fill("3")
    await page.button(PREVIEW).click()
    panel = page.page.get_by_role("region", name="The newest run")
    await expect(panel).to_contain_text("Failed")
    await panel.get_by_role("link", name="Open the run").click()
    await expect(page.page.locator(".failure")).to_contain_text(
        re.compile("AI_DAILY_LIMIT_REACHED.*What to do: Wait for")
    )


async def test_a_run_at_half_the_price_is_made_and_says_so(page: ShopPage, shop: Shop) -> None:
    await shop.stock(1)
    await page.enter(view="playbooks", playbook=TITLES)
    await expect(page.page.locator(".figure").nth(1)).to_have_text("No limiton AI suggestions; 0 used today")
    await page.page.get_by_label("Economy: about half the price").first.check()
    await page.button(PREVIEW).click()
    await page.says("Preview succeeded: 1 suggestion for 1")
    await page.link("Runs").click()
    await page.link("Preview").click()
    await expect(page.page.locator(".facts")).to_contain_text("Economy: about half")


async def test_a_viewer_reads_and_does_nothing(page: ShopPage, shop: Shop) -> None:
    await shop.stock(1)
    run = await shop.preview(rules=PlaybookRules(enabled=True, prefix="x"))
    await page.enter("VIEWER", view="playbooks", playbook=TITLES)
    await page.is_blocked(PREVIEW, "This needs the role EDITOR; your token has VIEWER here.")
    await page.is_blocked(DRAFT, "This needs the role EDITOR; your token has VIEWER here.")
    await page.is_blocked("Apply to 1 product", "This needs the role OWNER; your token has VIEWER here.")
    await page.link("Runs").click()
    await page.row(run.id).get_by_role("checkbox").check()
    await expect(page.page.get_by_role("region", name="Selected runs")).to_contain_text("Your role is too low")


async def test_an_editor_makes_drafts_and_applies_none(page: ShopPage, shop: Shop) -> None:
    await shop.stock(1)
    await page.enter("EDITOR", view="playbooks", playbook=TITLES)
    await page.button(PREVIEW).click()
    await page.is_blocked("Apply to 1 product", "This needs the role OWNER; your token has EDITOR here.")
