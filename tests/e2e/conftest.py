"""The real stack: two runs_service and two executor_service processes, PostgreSQL, Valkey, and a server that
speaks OpenAI's protocol. One for all tests here; each test has a shop (project) of its own on it."""

from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest

from devstack.stack import Stack
from tests.support.cli import Cli, NewCli
from tests.support.forking import LoadedOnce
from tests.support.openai_server import OpenAIServer
from tests.support.shop import Channels, Shop, open_shop


@pytest.fixture(scope="session")
def openai() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


@pytest.fixture(scope="session")
def stack_env(openai: OpenAIServer) -> dict[str, str]:
    return {
        **openai.environment,
        "AI_TIMEOUT_SECONDS": "2",
        "LOG_FORMAT": "json",
        "LOG_LEVEL": "DEBUG",  # with an access log
    }


@pytest.fixture(scope="package")
def stack(new_stack: Callable[..., Stack], stack_env: dict[str, str]) -> Iterator[Stack]:
    with new_stack(runs_replicas=2, executor_replicas=2, http=True, env=stack_env) as stack:
        yield stack


@pytest.fixture(scope="package")
async def channels(stack: Stack) -> AsyncIterator[Channels]:
    channels = Channels.to(stack)
    yield channels
    await channels.close()


@pytest.fixture
def new_shop(stack: Stack, channels: Channels) -> Callable[[], Shop]:
    return lambda: Shop(stack, channels)


@pytest.fixture
async def shop(new_shop: Callable[[], Shop]) -> Shop:
    """A project on the BUSINESS plan, without products."""
    shop = new_shop()
    await shop.open()
    return shop


@pytest.fixture(scope="package")
def lonely_stack(new_stack: Callable[..., Stack], stack_env: dict[str, str]) -> Iterator[Stack]:
    with new_stack(env=stack_env) as stack:
        yield stack


@pytest.fixture
async def lonely(lonely_stack: Stack) -> AsyncIterator[Shop]:
    """A shop on a stack whose only executor may be killed; the test starts it again."""
    async with open_shop(lonely_stack) as shop:
        yield shop


@pytest.fixture(autouse=True)
def _ai_behaves(openai: OpenAIServer) -> Iterator[None]:
    openai.reset()
    yield
    openai.reset()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let REG-003 look at what the whole suite left behind."""
    items.sort(key=lambda item: "test_REG_003" in item.name)


@pytest.fixture(scope="session")
def new_cli(loaded: LoadedOnce) -> NewCli:
    """Return the command for a folder, with options for every call."""
    return partial(Cli, loaded.of("playbook-runs"))


@pytest.fixture
def project() -> str:
    return f"cli-{uuid4().hex[:12]}"


@pytest.fixture
def cli(new_cli: NewCli, stack: Stack, project: str, tmp_path: Path) -> Cli:
    """The command, pointed at the session's stack and at a project of its own."""
    return new_cli(tmp_path, "--data-dir", str(stack.data_dir.path), "--project", project)
