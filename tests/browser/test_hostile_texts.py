"""Texts of others in the page are read, and run nothing: a script, a request or a dialog of theirs is a complaint."""

from uuid import uuid4

from playwright.async_api import expect

from tests.support.openai_protocol import Behaviour
from tests.support.openai_server import OpenAIServer
from tests.support.shop import TITLES, Channels, Shop
from tests.support.shop_page import PREVIEW, ShopPage

ATTACK = """"'><img src=x onerror="alert(1)"><script>alert(2)</script>"""
MADE_BY_ATTACKS = "main :is(img, script, iframe, svg, b), [onerror], a[href^='javascript']"
SAYS = "javascript:alert(3)//</textarea></title>${alert(4)}{{alert(5)}}"


async def ran_nothing(page: ShopPage) -> None:
    """No element of an attack is in the document."""
    assert await page.page.locator(MADE_BY_ATTACKS).count() == 0


async def test_texts_of_products_runs_and_errors_are_shown_as_they_are(
    page: ShopPage, channels: Channels, openai: OpenAIServer
) -> None:
    page.shop = hostile = Shop(page.shop.stack, channels, f"{ATTACK} {uuid4().hex[:6]}")
    await hostile.open()
    await hostile.put(id=f"p {ATTACK}", title=f"Title {ATTACK}", description=f"Words. {SAYS}")
    openai.behave(Behaviour(texts={f"Title {ATTACK}": f"{SAYS} <b>written</b>"}))
    await page.enter(user=f"user {ATTACK}", view="playbooks", playbook=TITLES)
    await page.button(PREVIEW).click()
    draft = page.page.locator("table.draft")
    await expect(draft).to_contain_text(f"Title {ATTACK}")
    await expect(draft).to_contain_text(f"p {ATTACK}")
    await expect(page.page.locator(".account")).to_contain_text(ATTACK)
    await ran_nothing(page)

    await page.link("Runs").click()
    await expect(page.rows).to_contain_text(f"user {ATTACK}")
    await ran_nothing(page)

    openai.behave(Behaviour(status=401, error_message=f"Not today {ATTACK} {SAYS}"))
    await hostile.put(id="q", title="Another", description="")
    failed = await hostile.preview(sample=50)
    assert "alert(2)" in failed.error_message
    await page.go(run=failed.id)
    await expect(page.page.locator(".failure")).to_contain_text(failed.error_message)
    await page.page.get_by_text("Raw JSON").click()
    await expect(page.page.get_by_label("The run as JSON")).to_contain_text("alert(2)")
    await ran_nothing(page)


async def test_what_the_address_says_runs_nothing(page: ShopPage) -> None:
    page.tab.expected.append("status of 4")
    await page.enter(status=ATTACK, scope=ATTACK, playbook=ATTACK)
    await expect(page.page.get_by_role("alert").first).to_be_visible()
    await ran_nothing(page)
    await page.go(run=ATTACK)
    await expect(page.page.get_by_role("heading", name="There is no such run here")).to_be_visible()
    await ran_nothing(page)
