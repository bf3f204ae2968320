"""A real PostgreSQL for the session; each test finds the executor's tables empty."""

from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import psycopg
import pytest

from executor_service.models import metadata
from tests.support.broker import delete_queues
from tests.support.certificates import Authority
from tests.support.executor import Bench
from tests.support.forking import Forks
from tests.support.stage import Stage

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
def runs_forks() -> Iterator[Forks]:
    with Forks("runs-service") as forks:
        yield forks


@pytest.fixture(scope="session")
def executor_forks() -> Iterator[Forks]:
    with Forks("executor-service") as forks:
        yield forks


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
