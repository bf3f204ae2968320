"""The page, open on a shop: as a person with a role sees it, and clicks on it."""

import re
from urllib.parse import urlencode

from playwright.async_api import Locator, Page, Request, expect

from tests.support.browser import TIMEOUT, Tab
from tests.support.shop import Shop

expect.set_options(timeout=TIMEOUT)

PREVIEW, DRAFT = "Generate preview (uses AI)", "Generate full draft (uses AI)"
REFUSED = "Failed to load resource: the server responded with a status of"  # what Chromium says of each call that is


def address(shop: Shop, token: str = "", **place: str) -> str:
    """Return the address of a place of the page, with a token if one is given."""
    assert shop.stack.gateway
    query = urlencode({"project": shop.project, **place})
    return f"{shop.stack.gateway.url}/?{query}" + (f"#token={token}" if token else "")


class ShopPage:
    """A tab on the page of a shop. `requests` has the method and the address of each request it has sent."""

    def __init__(self, tab: Tab, shop: Shop) -> None:
        self.tab = tab
        self.shop = shop
        self.requests: list[str] = []
        self._streams: set[Request] = set()
        self.most_streams = 0
        tab.page.on("request", self._on_request)
        tab.page.on("requestfinished", self._on_end)
        tab.page.on("requestfailed", self._on_end)

    def leave(self) -> None:
        """Count no more of what the tab sends."""
        self.page.remove_listener("request", self._on_request)
        self.page.remove_listener("requestfinished", self._on_end)
        self.page.remove_listener("requestfailed", self._on_end)

    @property
    def page(self) -> Page:
        return self.tab.page

    @property
    def open_streams(self) -> int:
        return len(self._streams)

    async def enter(self, role: str = "OWNER", user: str = "tester", **place: str) -> None:
        """Open a place with a new token in the address."""
        token = self.shop.stack.token(self.shop.project, role, user)
        await self.page.goto(address(self.shop, token, **place))

    async def go(self, **place: str) -> None:
        """Open a place with the token that the tab has."""
        await self.page.goto(address(self.shop, **place))

    # What is on it

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True)

    def link(self, name: str) -> Locator:
        return self.page.get_by_role("link", name=name, exact=True)

    @property
    def dialog(self) -> Locator:
        return self.page.get_by_role("dialog")

    def row(self, run_id: str) -> Locator:
        return self.page.locator(f'tr[data-run="{run_id}"]')

    @property
    def rows(self) -> Locator:
        return self.page.locator("tr[data-run]")

    def suggestion(self, product_id: str) -> Locator:
        return self.page.locator(f'tr[data-product="{product_id}"]')

    # What must come true

    async def is_live(self) -> None:
        await expect(self.page.locator("#live")).to_have_text("Live")

    async def has_status(self, run_id: str, status: str) -> None:
        await expect(self.row(run_id).locator("[data-status]")).to_have_text(status)

    async def lists(self, *run_ids: str) -> None:
        """The list has these runs, in this order, and no others."""
        await expect(self.rows).to_have_count(len(run_ids))
        assert [await row.get_attribute("data-run") for row in await self.rows.all()] == list(run_ids)

    async def says(self, text: str | re.Pattern[str]) -> None:
        """A message of what was done."""
        await expect(self.page.locator("#notices")).to_contain_text(text)

    async def is_blocked(self, button: str, reason: str) -> None:
        """A button does nothing now, and says why."""
        await expect(self.button(button)).to_be_disabled()
        await expect(self.button(button)).to_have_accessible_description(reason)

    async def fits(self) -> None:
        """Nothing sticks out to the side."""
        widths = await self.page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
        assert widths[0] <= widths[1], widths

    def _on_request(self, request: Request) -> None:
        if request.is_navigation_request():
            self._streams.clear()  # with the document before; of its requests Chromium says no more
        self.requests.append(f"{request.method} {request.url}")
        if request.url.partition("?")[0].endswith(":watch"):
            self._streams.add(request)
            self.most_streams = max(self.most_streams, len(self._streams))

    def _on_end(self, request: Request) -> None:
        self._streams.discard(request)
