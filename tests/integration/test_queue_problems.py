"""A watcher reads why a run waits in the queue: the broker refuses, is away, or the executor cannot reach it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from playbooks.runs.v1.run_pb2 import Run

from devstack.ports import HOST
from devstack.valkey import Valkey
from executor_service import app as executor_app
from executor_service.settings import ExecutorSettings
from runs_client.client import RunsClient
from runs_client.commands.watching import why_queued
from runs_client.endpoints import ServiceOptions
from runs_service import app as runs_app
from runs_service.settings import RunsSettings
from servicekit.broker.refusals import UNREACHABLE
from tests.support.waiting import eventually

NOBODY = f"{HOST}:1"


@asynccontextmanager
async def queued(database_url: str, broker_url: str) -> AsyncIterator[tuple[RunsClient, Run]]:
    """A run that waits, at a service with that broker, without an executor."""
    settings = RunsSettings(
        listen=f"{HOST}:0",
        auth_mode="disabled",
        database_url=database_url,
        broker_url=broker_url,
        executor_target=NOBODY,
        broker_queue_prefix="test-queue-problems",
    )
    async with runs_app.serving(settings) as server, RunsClient(server.address, timeout=10) as client:
        run = (await client.create("p", "missing_seo_title", Run.PREVIEW_GENERATE)).run
        yield client, run
        await client.cancel("p", run.id)


def refused_urls(request: pytest.FixtureRequest, kind: str) -> tuple[str, str]:
    """Return a BROKER_URL that never works, and what is said of it."""
    if kind == "redis":
        port = request.getfixturevalue("valkey_server").url.rpartition(":")[2]
        return f"redis://nobody:hidden-word@{HOST}:{port}", "invalid username-password pair"
    if kind == "nobody":
        return f"redis://:hidden-word@{HOST}:1", ""
    host = request.getfixturevalue("amqp_url").rpartition("@")[2].partition("/")[0]
    if kind == "rabbitmq":
        return f"amqp://guest:hidden-word@{host}//", "ACCESS_REFUSED"
    users = request.getfixturevalue("amqp_url").rpartition("@")[0]
    return f"{users}@{host}/nowhere", "vhost nowhere not found"


@pytest.mark.parametrize("kind", ["redis", "rabbitmq", "vhost", "nobody"])
async def test_a_watcher_hears_that_the_broker_refuses_and_nothing_of_its_url(
    kind: str, runs_database_url: str, request: pytest.FixtureRequest
) -> None:
    url, words = refused_urls(request, kind)
    async with queued(runs_database_url, url) as (client, run):

        async def problem() -> str:
            return await client.queue_problem("p", run.id)

        await eventually(problem)
        said = await problem()
        assert said == UNREACHABLE if kind == "nobody" else said.startswith("the broker refuses: ")
        assert words in said
        line = await why_queued(client, ServiceOptions(executor_target=NOBODY), run)
        assert line == f"queued; {said}; the run starts when that is mended"
        assert "hidden-word" not in line
        assert HOST not in line


async def test_a_run_whose_broker_works_has_no_problem(runs_database_url: str, valkey_server: Valkey) -> None:
    async with queued(runs_database_url, valkey_server.url) as (client, run):
        assert await client.queue_problem("p", run.id) == ""
        line = await why_queued(client, ServiceOptions(executor_target=NOBODY), run)
        assert line == f"queued; no executor serves at {NOBODY}; the run starts when one does"


async def test_an_executor_that_cannot_use_the_broker_is_named(
    runs_database_url: str, executor_database: str, valkey_server: Valkey
) -> None:
    port = valkey_server.url.rpartition(":")[2]
    deaf = ExecutorSettings(
        listen=f"{HOST}:0",
        auth_mode="disabled",
        ai_provider="offline",
        database_url=executor_database,
        broker_url=f"redis://nobody:hidden-word@{HOST}:{port}",
    )
    async with (
        executor_app.serving(deaf) as executor,
        queued(runs_database_url, valkey_server.url) as (client, run),
    ):
        services = ServiceOptions(executor_target=executor.address)

        async def is_said() -> bool:
            return f"at {executor.address} cannot use the broker" in await why_queued(client, services, run)

        await eventually(is_said)
