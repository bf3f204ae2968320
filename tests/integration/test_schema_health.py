"""A service on a database that it cannot work with: what its health check, its calls and its log say."""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from playbooks.executor.v1.catalog_service_pb2 import GetProjectRequest
from playbooks.executor.v1.catalog_service_pb2_grpc import CatalogServiceStub
from playbooks.runs.v1.runs_service_pb2 import ListRunsRequest
from playbooks.runs.v1.runs_service_pb2_grpc import RunsServiceStub

from devstack.ports import HOST
from devstack.postgres import Postgres
from executor_service import app as executor_app
from executor_service.settings import ExecutorSettings
from runs_client.client import RunsClient
from runs_client.errors import ServiceCallError
from runs_client.failures import explain
from runs_service import app as runs_app
from runs_service.settings import RunsSettings
from servicekit.errors import error_info
from servicekit.postgres import migrations, revisions
from servicekit.rpc.server import Server
from tests.conftest import new_database
from tests.support.forking import Forks
from tests.support.prepared import EXECUTOR_TEMPLATE, RUNS_TEMPLATE
from tests.support.proxy import Proxy
from tests.support.runs_process import serving
from tests.support.waiting import eventually

SERVICES = pytest.mark.parametrize("service", ["runs", "executor"])
SCRIPTS = {"runs": runs_app.MIGRATIONS, "executor": executor_app.MIGRATIONS}


@pytest.fixture
def migrated_database_url(service: str, postgres_server: Postgres) -> Iterator[str]:
    """The URL of a database with the tables of the test's service."""
    yield from new_database(postgres_server, template=RUNS_TEMPLATE if service == "runs" else EXECUTOR_TEMPLATE)


def entered(service: str, url: str, **settings: str) -> AbstractAsyncContextManager[Server]:
    common: dict[str, Any] = {"listen": f"{HOST}:0", "auth_mode": "disabled", "database_url": url, **settings}
    if service == "runs":
        return runs_app.serving(RunsSettings(executor_target=f"{HOST}:1", **common))
    return executor_app.serving(ExecutorSettings(ai_provider="offline", **common))


async def refusal(service: str, channel: grpc.aio.Channel) -> tuple[grpc.StatusCode, str, str]:
    """Return code, reason and words of what a call gets; OK and nothing when it succeeds."""
    try:
        if service == "runs":
            await RunsServiceStub(channel).ListRuns(ListRunsRequest(project_id="p"), timeout=5)
        else:
            await CatalogServiceStub(channel).GetProject(GetProjectRequest(project_id="p"), timeout=5)
    except grpc.aio.AioRpcError as error:
        info = error_info(error)
        return error.code(), info.reason if info else "", error.details() or ""
    return grpc.StatusCode.OK, "", ""


def missing(url: str, service: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(f"DROP SCHEMA {service} CASCADE")


def serves_from(url: str, service: str, oldest: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(f"UPDATE {service}.alembic_version SET compatible_from = '{oldest}'")


def older(url: str, service: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(f"UPDATE {service}.alembic_version SET version_num = '0001'")


def newer(url: str, service: str) -> None:
    """As a later release leaves it that changed more than this one can bear."""
    with psycopg.connect(url) as connection:
        connection.execute(f"UPDATE {service}.alembic_version SET version_num = '0999', compatible_from = '0999'")


def newer_for_newer_code(url: str, service: str) -> None:
    newer(url, service)
    serves_from(url, service, "0998")


def of_the_other(url: str, service: str) -> None:
    missing(url, service)
    migrations.upgrade(url, SCRIPTS["executor" if service == "runs" else "runs"])


@SERVICES
@pytest.mark.parametrize("schema", [missing, older, newer, newer_for_newer_code, of_the_other])
async def test_with_a_schema_of_another_release_calls_are_refused_and_the_log_names_the_command(
    service: str, schema: Callable[[str, str], None], migrated_database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    schema(migrated_database_url, service)
    caplog.set_level(logging.INFO)
    async with (
        entered(service, migrated_database_url) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        assert not await serving(channel)
        code, reason, words = await refusal(service, channel)
        assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "SCHEMA_MISMATCH")
        assert f"{service}-service migrate" in words
        with psycopg.connect(migrated_database_url) as connection:
            connection.execute(f"DROP SCHEMA IF EXISTS {service} CASCADE")
        migrations.upgrade(migrated_database_url, SCRIPTS[service])
        await eventually(lambda: serving(channel))
        assert (await refusal(service, channel))[0] in (grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND)
    said = [one for one in caplog.messages if f"{service}-service migrate`" in one and "schema" in one]
    lines = [one for one in said if "not ours to use" in one]
    assert len(lines) in (1, 2)  # DROP and migrate may pass through another mismatch
    assert not [record for record in caplog.records if record.exc_info and record.levelno > logging.DEBUG]


@SERVICES
@pytest.mark.parametrize("oldest", ["0001", "this one"])
async def test_a_newer_schema_that_serves_this_release_is_worked_with(
    service: str, oldest: str, migrated_database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    newer(migrated_database_url, service)
    head = revisions.head(SCRIPTS[service])
    serves_from(migrated_database_url, service, head if oldest == "this one" else oldest)
    async with (
        entered(service, migrated_database_url) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        assert await serving(channel)
        assert (await refusal(service, channel))[0] in (grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND)
    assert "schema" not in caplog.text
    # What starts an earlier release again runs its migration, too.
    done = migrations.upgrade(migrated_database_url, SCRIPTS[service])
    assert done == f"schema {service}: 0999, of a newer release, which serves this one; nothing to do"
    with psycopg.connect(migrated_database_url) as connection:
        assert connection.execute(f"SELECT version_num FROM {service}.alembic_version").fetchall() == [("0999",)]


@SERVICES
async def test_a_schema_that_an_earlier_release_made_says_nothing_of_that_and_is_worked_with(
    service: str, migrated_database_url: str
) -> None:
    with psycopg.connect(migrated_database_url) as connection:
        connection.execute(f"ALTER TABLE {service}.alembic_version DROP COLUMN compatible_from")
    async with (
        entered(service, migrated_database_url) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        assert await serving(channel)
    migrations.upgrade(migrated_database_url, SCRIPTS[service])
    with psycopg.connect(migrated_database_url) as connection:
        assert connection.execute(f"SELECT compatible_from FROM {service}.alembic_version").fetchone() is not None


@SERVICES
async def test_a_role_without_the_schema_is_a_mismatch(service: str, migrated_database_url: str) -> None:
    with psycopg.connect(migrated_database_url, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS stranger")
        connection.execute("CREATE ROLE stranger LOGIN PASSWORD 'stranger'")
        connection.execute(f"GRANT CONNECT ON DATABASE {connection.info.dbname} TO stranger")
        url = f"postgresql://stranger:stranger@{HOST}:{connection.info.port}/{connection.info.dbname}"
    async with entered(service, url) as server, grpc.aio.insecure_channel(server.address) as channel:
        assert not await serving(channel)
        assert (await refusal(service, channel))[1] == "SCHEMA_MISMATCH"
    with psycopg.connect(migrated_database_url, autocommit=True) as connection:
        connection.execute("DROP OWNED BY stranger")
        connection.execute("DROP ROLE stranger")


@SERVICES
async def test_health_follows_whether_the_database_can_be_reached(service: str, migrated_database_url: str) -> None:
    with psycopg.connect(migrated_database_url) as connection:
        port, name = connection.info.port, connection.info.dbname
        user, password = connection.info.user, connection.info.password
    async with Proxy(f"{HOST}:{port}") as proxy:
        url = f"postgresql://{user}:{password}@{proxy.target}/{name}"
        with proxy.refusing():
            async with entered(service, url) as server, grpc.aio.insecure_channel(server.address) as channel:
                assert not await serving(channel)
        async with entered(service, url) as server, grpc.aio.insecure_channel(server.address) as channel:
            assert await serving(channel)
            with proxy.refusing():
                proxy.cut()

                async def is_away() -> bool:
                    return not await serving(channel)

                await eventually(is_away)
                assert (await refusal(service, channel))[1] == "DATABASE_UNAVAILABLE"
            await eventually(lambda: serving(channel))


@SERVICES
async def test_a_command_says_that_a_service_which_answers_cannot_serve(service: str, empty_database_url: str) -> None:
    async with entered(service, empty_database_url) as server, RunsClient(server.address, timeout=10) as client:
        with pytest.raises(ServiceCallError) as refusal:
            await client.get("p", "0198f0a0-0000-7000-8000-000000000000")
    assert "cannot serve now (NOT_SERVING)" in explain(refusal.value)


@SERVICES
async def test_a_broker_that_is_away_has_a_health_check_of_its_own(
    service: str, migrated_database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        entered(service, migrated_database_url, broker_url=f"redis://:hidden@{HOST}:1/0") as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        assert await serving(channel)
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="broker"))
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert "refused" in caplog.text
    assert "hidden" not in caplog.text


@SERVICES
def test_migrate_needs_the_database_url_only_and_says_what_it_did(
    service: str, empty_database_url: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    forks: Forks = request.getfixturevalue(f"{service}_forks")

    def migrate() -> tuple[int, str]:
        """Return the exit code and what it wrote."""
        log = tmp_path / "log"
        ended = forks.run(log, "migrate", env={f"{service.upper()}_DATABASE_URL": empty_database_url}).wait(60)
        return ended, log.read_text()

    head = sorted(file.name[:4] for file in (SCRIPTS[service] / "versions").glob("0*.py"))[-1]
    assert migrate() == (0, f"schema {service}: nothing → {head}\n")
    assert migrate() == (0, f"schema {service}: {head}, nothing to do\n")
    with psycopg.connect(empty_database_url) as connection:
        connection.execute(f"UPDATE {service}.alembic_version SET version_num = '0999', compatible_from = '0999'")
    code, written = migrate()
    assert code == 1
    assert written.count("\n") == 1
    assert "newer release" in written
