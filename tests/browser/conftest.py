"""A real Chromium for the session, before one stack with the gateway; each test has a shop of its own on it."""

from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from playwright.async_api import Browser

from devstack.stack import Stack
from tests.e2e.conftest import openai, stack_env  # noqa: F401  # fixtures
from tests.support.browser import Tab, launched
from tests.support.openai_server import OpenAIServer
from tests.support.shop import Channels, Shop
from tests.support.shop_page import ShopPage
from tests.support.waiting import eventually


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    async with launched() as browser:
        yield browser


@pytest.fixture(scope="session")
async def _tab(browser: Browser) -> Tab:
    return await Tab.open(browser)


@pytest.fixture
async def tab(_tab: Tab, stack: Stack) -> AsyncIterator[Tab]:
    """An empty tab, which the tests hand on: a new one costs a second. A complaint that none expects fails the test."""
    _tab.forget()
    _tab.expected.append("/favicon.ico")  # of the picture that it shows between two tests
    yield _tab
    assert stack.gateway
    await _tab.empty(f"{stack.gateway.url}/page/icon.svg")
    assert _tab.unexpected() == []


@pytest.fixture(scope="session")
def stack(new_stack: Callable[..., Stack], stack_env: dict[str, str]) -> Iterator[Stack]:  # noqa: F811
    gateway_env = {"TRACE_URL": "https://traces.example/{trace_id}"}
    env = {**stack_env, "AI_TIMEOUT_SECONDS": "60"}  # runs that a test cancels last until then, on a busy machine too
    with new_stack(http=True, env=env, gateway_env=gateway_env) as stack:
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
async def page(tab: Tab, shop: Shop) -> AsyncIterator[ShopPage]:
    """An empty tab, for the page of `shop`. It leaves no event stream open but the one of what it shows."""
    page = ShopPage(tab, shop)
    yield page
    await eventually(lambda: page.open_streams <= 1)
    page.leave()


@pytest.fixture(autouse=True)
def _ai_behaves(openai: OpenAIServer) -> Iterator[None]:  # noqa: F811
    openai.reset()
    yield
    openai.reset()
