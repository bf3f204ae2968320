"""A real Chromium for the session, before one stack with the gateway."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from playwright.async_api import Browser

from tests.support.browser import Tab, launched

NewTab = Callable[..., Awaitable[Tab]]


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    async with launched() as browser:
        yield browser


@pytest.fixture
async def new_tab(browser: Browser) -> AsyncIterator[NewTab]:
    """Open a tab with the given options of Browser.new_context. A complaint that none expects fails the test."""
    tabs: list[Tab] = []
    async with AsyncExitStack() as opened:

        async def open_tab(**options: Any) -> Tab:
            tab = await Tab.open(browser, **options)
            opened.push_async_callback(tab.context.close)
            tabs.append(tab)
            return tab

        yield open_tab
    assert [complaint for tab in tabs for complaint in tab.unexpected()] == []
