"""A real Chromium for the session, before one stack with the gateway; each test has a shop of its own on it."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from playwright.async_api import Browser

from devstack.stack import Stack
from tests.e2e.conftest import openai, stack_env  # noqa: F401  # fixtures
from tests.support.browser import Tab, launched
from tests.support.openai_server import OpenAIServer
from tests.support.shop import Channels, Shop
from tests.support.shop_page import ShopPage

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


@pytest.fixture(scope="session")
def stack(new_stack: Callable[..., Stack], stack_env: dict[str, str]) -> Iterator[Stack]:  # noqa: F811
    gateway_env = {"TRACE_URL": "https://traces.example/{trace_id}"}
    with new_stack(http=True, env=stack_env, gateway_env=gateway_env) as stack:
        yield stack


@pytest.fixture(scope="session")
async def channels(stack: Stack) -> AsyncIterator[Channels]:
    channels = Channels.to(stack)
    yield channels
    await channels.close()


@pytest.fixture
async def shop(stack: Stack, channels: Channels) -> Shop:
    """A project on the BUSINESS plan, without products."""
    shop = Shop(stack, channels)
    await shop.open()
    return shop


@pytest.fixture
async def page(new_tab: NewTab, shop: Shop) -> ShopPage:
    """An empty tab, for the page of `shop`."""
    return ShopPage(await new_tab(), shop)


@pytest.fixture(autouse=True)
def _ai_behaves(openai: OpenAIServer) -> Iterator[None]:  # noqa: F811
    openai.reset()
    yield
    openai.reset()
