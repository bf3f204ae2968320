"""A real PostgreSQL for the session; each test finds the executor's tables empty."""

from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import psycopg
import pytest

from devstack.postgres import Postgres
from executor_service import app
from executor_service.models import SCHEMA, metadata
from servicekit.postgres import migrations
from tests.support.broker import delete_queues
from tests.support.executor import Bench

EMPTY = f"TRUNCATE {', '.join(table.fullname for table in metadata.sorted_tables)}"


@pytest.fixture(scope="session")
def _executor_schema(postgres_server: Postgres) -> str:
    url = postgres_server.url(database=SCHEMA)
    with psycopg.connect(postgres_server.url(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {SCHEMA}")
    migrations.upgrade(url, app.MIGRATIONS)
    return url


@pytest.fixture
def executor_database(_executor_schema: str) -> str:
    """The URL of a migrated and empty executor database."""
    with psycopg.connect(_executor_schema, autocommit=True) as connection:
        connection.execute(EMPTY)  # type: ignore[arg-type]
    return _executor_schema


@pytest.fixture
async def bench(executor_database: str) -> AsyncIterator[Bench]:
    async with Bench(executor_database) as bench:
        yield bench


@pytest.fixture
async def other(bench: Bench) -> AsyncIterator[Bench]:
    """Another replica beside `bench`: same database, clock and provider."""
    async with Bench(bench.url, clock=bench.clock, provider=bench.provider, owner="two") as other:
        yield other


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
