"""Tokens in the page: where one comes from and goes to, and what a bad or an old one leads to."""

import re
from datetime import timedelta

from playwright.async_api import expect

from devstack.datadir import Secrets
from tests.support.shop import Shop
from tests.support.shop_page import REFUSED, ShopPage, address

ASKED = "Your token, please"


async def test_a_token_leaves_the_address_stays_in_its_tab_and_goes_on_signing_out(page: ShopPage, shop: Shop) -> None:
    await page.enter(status="FAILED")
    await expect(page.page.get_by_role("heading", name="No runs match these filters")).to_be_visible()
    assert page.page.url == address(shop, status="FAILED")
    assert await page.page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    await page.page.reload()
    await expect(page.page.get_by_role("heading", name="No runs match these filters")).to_be_visible()
    other = await page.tab.context.new_page()  # another tab of the same browser
    await other.goto(address(shop))
    await expect(other.get_by_role("heading", name=ASKED)).to_be_visible()
    await page.button("Sign out").click()
    await expect(page.page.get_by_role("heading", name=ASKED)).to_be_visible()
    assert await page.page.evaluate("Object.values(sessionStorage).some((one) => one.includes('.'))") is False


async def test_a_token_that_expires_is_said_and_the_next_one_leads_back(page: ShopPage, shop: Shop) -> None:
    short = shop.stack.secrets.token({shop.project: "OWNER"}, user="u", lifetime=timedelta(seconds=4))
    await page.page.goto(address(shop, short, status="STALE"))
    await expect(page.page.get_by_role("heading", name="No runs match these filters")).to_be_visible()
    await expect(page.page.get_by_role("heading", name="A new token is needed")).to_be_visible()
    await expect(page.page.get_by_role("alert").first).to_contain_text("Your token expired at")
    await page.page.get_by_label("Token").fill("nonsense")
    await page.button("Open").click()
    await expect(page.page.locator("#token-error")).to_contain_text("This is not a token")
    await page.page.get_by_label("Token").fill(f" Bearer {shop.stack.token(shop.project, 'VIEWER')} ")
    await page.button("Open").click()
    await expect(page.page.get_by_label("Status")).to_have_value("STALE")
    await expect(page.page.get_by_text("VIEWER", exact=True)).to_be_visible()


async def test_a_token_that_the_server_refuses_is_said_with_its_words(page: ShopPage, shop: Shop) -> None:
    page.tab.expected.append(f"{REFUSED} 401")
    await page.page.goto(address(shop, Secrets().token({shop.project: "OWNER"}, user="u")))
    await expect(page.page.get_by_role("alert").first).to_contain_text(re.compile("The server refused the token: .+"))


async def test_a_token_for_every_project_asks_which(page: ShopPage, shop: Shop) -> None:
    assert shop.stack.gateway
    await page.page.goto(f"{shop.stack.gateway.url}/#token={shop.stack.token('*', 'OWNER')}")
    await page.page.get_by_label("Project id").fill(shop.project)
    await page.button("Open").click()
    await expect(page.page.get_by_role("heading", name="No runs yet")).to_be_visible()
    assert page.page.url == address(shop)


async def test_another_projects_token_is_refused_without_a_loop(page: ShopPage, shop: Shop) -> None:
    page.tab.expected.append(f"{REFUSED} 403")
    await page.page.goto(address(shop, shop.stack.token("another", "OWNER")))
    alert = page.page.get_by_role("alert").first
    await expect(alert).to_contain_text("Your token does not allow this")
    await expect(alert).to_contain_text(
        f"The token gives no access to project '{shop.project}'; ask its owner for one that does."
    )
