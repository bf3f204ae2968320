"""Stacks to be broken: each test has one of its own, with the AI server of the e2e tests."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from devstack.stack import Stack, StackOptions
from tests.e2e.conftest import openai, stack_env  # noqa: F401  # fixtures
from tests.support.openai_server import OpenAIServer
from tests.support.shop import Channels, Shop

NewShop = Callable[..., Any]


@pytest.fixture(autouse=True)
def _ai_behaves(openai: OpenAIServer) -> Iterator[None]:  # noqa: F811
    openai.reset()
    yield
    openai.reset()


@pytest.fixture
async def start_stack(
    stack_folder: Callable[[], Path],
    stack_env: dict[str, str],  # noqa: F811
) -> AsyncIterator[Callable[..., Any]]:
    """Start a stack with the given StackOptions (`env` adds to the usual one, and without a `data_dir` it finds its
    database migrated); returns it with a shop on it."""
    async with AsyncExitStack() as cleanup:

        async def start(*, env: dict[str, str] | None = None, data_dir: Path | None = None, **options: Any) -> Shop:
            folder = data_dir or stack_folder()
            stack = Stack(StackOptions(data_dir=folder, durable=False, env=stack_env | (env or {}), **options))
            cleanup.enter_context(stack)
            channels = Channels.to(stack)
            cleanup.push_async_callback(channels.close)
            shop = Shop(stack, channels)
            await shop.open()
            return shop

        yield start
