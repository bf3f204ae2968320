"""Stacks to be broken, with the AI server of the e2e tests: one for a test, or one for all tests of a module. Single
services to be attacked are those of the integration tests."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from devstack.stack import Stack, StackOptions
from tests.e2e.conftest import openai, stack_env  # noqa: F401  # fixtures
from tests.integration.conftest import (  # noqa: F401  # fixtures
    bench,
    executor_database,
    executor_forks,
    executor_process,
    runs_forks,
    runs_process,
)
from tests.support.openai_server import OpenAIServer
from tests.support.shop import Channels, NewShop, Shop


@pytest.fixture(autouse=True)
def _ai_behaves(openai: OpenAIServer) -> Iterator[None]:  # noqa: F811
    openai.reset()
    yield
    openai.reset()


@asynccontextmanager
async def running(folder: Path, env: dict[str, str], **options: Any) -> AsyncIterator[NewShop]:
    """Run a stack with these StackOptions within the block, and make shops on it."""
    with Stack(StackOptions(data_dir=folder, durable=False, env=env, **options)) as stack:
        channels = Channels.to(stack)
        yield lambda: Shop(stack, channels)
        await channels.close()


@pytest.fixture(scope="module")
async def new_shop(
    request: pytest.FixtureRequest,
    stack_folder: Callable[[], Path],
    stack_env: dict[str, str],  # noqa: F811
) -> AsyncIterator[NewShop]:
    """Make shops on the stack of the module, which says as STACK, in StackOptions, what is special about it; its `env`
    adds to the usual one."""
    options = dict(request.module.STACK)
    async with running(stack_folder(), stack_env | options.pop("env", {}), **options) as new_shop:
        yield new_shop


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
            new_shop = await cleanup.enter_async_context(running(folder, stack_env | (env or {}), **options))
            shop = new_shop()
            await shop.open()
            return shop

        yield start
