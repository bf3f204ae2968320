"""A real PostgreSQL for the session; each test finds the executor's tables empty."""

from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from pydantic import SecretStr

from devstack.valkey import Valkey
from executor_service.ai.factory import build_provider
from executor_service.ai.provider import SuggestionProvider
from executor_service.ai.retry import RetryPolicy
from executor_service.models import metadata
from servicekit.postgres.database import Database
from tests.conftest import new_database
from tests.support.broker import delete_queues
from tests.support.certificates import Authority
from tests.support.executor import Bench
from tests.support.forking import Forks, LoadedOnce
from tests.support.openai_server import OpenAIServer
from tests.support.prepared import RUNS_TEMPLATE
from tests.support.project_watching import Replica, running_replica
from tests.support.run_watching import Hub, running_hub
from tests.support.service import ServiceProcess
from tests.support.stage import Stage
from tests.support.suggesting import Build, Waits

EMPTY = f"TRUNCATE {', '.join(table.fullname for table in metadata.sorted_tables)}"


@pytest.fixture
def executor_database(executor_database_url: str) -> str:
    """The URL of a migrated and empty executor database."""
    with psycopg.connect(executor_database_url, autocommit=True) as connection:
        connection.execute(EMPTY)  # type: ignore[arg-type]
    return executor_database_url


@pytest.fixture
async def bench(executor_database: str) -> AsyncIterator[Bench]:
    async with Bench(executor_database) as bench:
        yield bench


@pytest.fixture
async def stage(executor_database: str) -> AsyncIterator[Stage]:
    async with Stage(executor_database) as stage:
        yield stage


@pytest.fixture
async def other(bench: Bench) -> AsyncIterator[Bench]:
    """Another replica beside `bench`: same database, clock and provider."""
    async with Bench(bench.url, clock=bench.clock, provider=bench.provider, owner="two") as other:
        yield other


@pytest.fixture(scope="session")
def _authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def few_authorities(_authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP clients trust one authority: to read the machine's hundreds takes longer than most tests that need none."""
    monkeypatch.setenv("SSL_CERT_FILE", str(_authority.file))


@pytest.fixture(scope="session")
def runs_forks(loaded: LoadedOnce) -> Forks:
    return loaded.of("runs-service")


@pytest.fixture(scope="session")
def executor_forks(loaded: LoadedOnce) -> Forks:
    return loaded.of("executor-service")


@pytest.fixture(params=["valkey", "rabbitmq"])
def url(request: pytest.FixtureRequest) -> str:
    """The URL of a broker: the test runs over each."""
    return (
        request.getfixturevalue("amqp_url")
        if request.param == "rabbitmq"
        else request.getfixturevalue("valkey_server").url
    )


@pytest.fixture
def queue(url: str) -> Iterator[str]:
    """The name of a queue of the test's own."""
    name = f"test-{uuid4().hex[:12]}"
    yield name
    delete_queues(url, name, f"{name}.dead", f"{name}.v2", f"{name}.v3")


@pytest.fixture(scope="session")
def running_server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


@pytest.fixture
def server(running_server: OpenAIServer) -> Iterator[OpenAIServer]:
    running_server.reset()
    yield running_server
    assert running_server.stats().rejected == []


@pytest.fixture
def waits() -> Waits:
    return Waits()


@pytest.fixture
async def build(running_server: OpenAIServer, waits: Waits, few_authorities: None) -> AsyncIterator[Build]:
    built: list[SuggestionProvider] = []

    def build(**settings: Any) -> SuggestionProvider:
        settings = {
            "api_key": SecretStr(running_server.api_key),
            "base_url": running_server.base_url,
            "retry": RetryPolicy(sleep=waits, random=lambda: 0.0),
            **settings,
        }
        built.append(build_provider(**settings))
        return built[-1]

    yield build
    for provider in built:
        await provider.close()


@pytest.fixture
def provider(server: OpenAIServer, build: Build) -> SuggestionProvider:
    return build()


@pytest.fixture
async def replica(runs_database: Database) -> AsyncIterator[Replica]:
    """A replica whose watchers find by hints what they find."""
    async with running_replica(runs_database, poll=3600.0) as replica:
        yield replica


@pytest.fixture
async def hub(runs_database: Database) -> AsyncIterator[Hub]:
    async with running_hub(runs_database) as hub:
        yield hub


@pytest.fixture
async def hub_without_poll(runs_database: Database) -> AsyncIterator[Hub]:
    """A hub whose watchers find by hints what they find."""
    async with running_hub(runs_database, poll=3600.0) as hub:
        yield hub


@pytest.fixture(scope="session")
def environment(postgres_server: Any, valkey_server: Valkey) -> Iterator[dict[str, str]]:
    """What a runs-service process needs: a migrated database of its own, and a broker."""
    for url in new_database(postgres_server, template=RUNS_TEMPLATE):
        yield {"RUNS_DATABASE_URL": url, "BROKER_URL": valkey_server.url}


@pytest.fixture(scope="module")
def runs_process(
    runs_forks: Forks, postgres_server: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceProcess]:
    for url in new_database(postgres_server, template=RUNS_TEMPLATE):
        log = tmp_path_factory.mktemp("runs") / "log"
        with ServiceProcess(runs_forks, "runs", log, {"RUNS_DATABASE_URL": url}) as service:
            yield service


@pytest.fixture(scope="module")
def executor_process(
    executor_forks: Forks, executor_database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceProcess]:
    environment = {"EXECUTOR_DATABASE_URL": executor_database_url, "MAX_RECEIVE_SECONDS": "10"}
    with ServiceProcess(
        executor_forks, "executor", tmp_path_factory.mktemp("executor") / "log", environment
    ) as service:
        yield service
