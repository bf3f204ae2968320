"""Migrations of both services, up and down, over a real PostgreSQL."""

import os
from pathlib import Path

import psycopg
import pytest
from alembic import command

from devstack.postgres import Postgres
from executor_service import app as executor_app
from executor_service.models import metadata as executor_metadata
from runs_service import app as runs_app
from runs_service.models import metadata as runs_metadata
from servicekit.postgres import migrations, revisions
from tests.support.forking import Forks

SERVICES = pytest.mark.parametrize(
    ("scripts", "schema"),
    [(runs_app.MIGRATIONS, runs_metadata.schema), (executor_app.MIGRATIONS, executor_metadata.schema)],
    ids=["runs", "executor"],
)


def tables(url: str, schema: str) -> set[str]:
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", [schema]).fetchall()
        return {name for (name,) in rows}


@SERVICES
def test_the_migrations_make_what_the_models_say(scripts: Path, schema: str, empty_database_url: str) -> None:
    migrations.upgrade(empty_database_url, scripts)
    command.check(migrations.config(empty_database_url, scripts))  # raises when they differ
    expected = {
        table.name for m in (runs_metadata, executor_metadata) if m.schema == schema for table in m.sorted_tables
    }
    assert tables(empty_database_url, schema) == {*expected, "alembic_version"}


@SERVICES
def test_down_and_up_again(scripts: Path, schema: str, empty_database_url: str) -> None:
    config = migrations.config(empty_database_url, scripts)
    migrations.upgrade(empty_database_url, scripts)
    before = tables(empty_database_url, schema)
    command.downgrade(config, "base")
    assert tables(empty_database_url, schema) == {"alembic_version"}
    migrations.upgrade(empty_database_url, scripts)
    migrations.upgrade(empty_database_url, scripts)  # nothing to do
    assert tables(empty_database_url, schema) == before


def test_both_services_migrate_one_database_side_by_side(empty_database_url: str) -> None:
    for scripts in (runs_app.MIGRATIONS, executor_app.MIGRATIONS):
        migrations.upgrade(empty_database_url, scripts)
    for scripts in (runs_app.MIGRATIONS, executor_app.MIGRATIONS):
        command.check(migrations.config(empty_database_url, scripts))


def test_many_processes_migrate_at_once(empty_database_url: str, runs_forks: Forks, tmp_path: Path) -> None:
    env = {"RUNS_DATABASE_URL": empty_database_url}
    migrators = [runs_forks.run(tmp_path / f"log-{number}", "migrate", env=env) for number in range(4)]
    assert [migrator.wait(60) for migrator in migrators] == [0] * 4
    assert "runs" in tables(empty_database_url, "runs")


def test_a_database_that_cannot_be_reached_fails_soon(postgres_server: Postgres) -> None:
    with pytest.raises(Exception, match="refused"):
        migrations.upgrade("postgresql://u:p@127.0.0.1:1/d", runs_app.MIGRATIONS)


@pytest.mark.parametrize("service", ["runs", "executor"])
def test_migrate_says_in_one_line_that_there_is_no_database(
    service: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    variable = f"{service.upper()}_DATABASE_URL"
    settings = {
        variable: "postgresql://u:hidden-password@127.0.0.1:1/d",
        "AUTH_JWT_SECRET": "x" * 32,
        "PATH": os.environ["PATH"],
    }
    forks: Forks = request.getfixturevalue(f"{service}_forks")
    log = tmp_path / "log"
    assert forks.run(log, "migrate", env=settings).wait(60) == 1
    (line,) = log.read_text().splitlines()
    assert line.startswith(f"{variable}: ")
    assert "refused" in line
    assert "hidden-password" not in line


@SERVICES
def test_whether_a_schema_is_current_is_found_without_alembic(
    scripts: Path, schema: str, empty_database_url: str
) -> None:
    from alembic.script import ScriptDirectory

    assert revisions.head(scripts) == ScriptDirectory.from_config(migrations.config("", scripts)).get_current_head()
    assert not revisions.is_current(empty_database_url, scripts, schema)
    migrations.upgrade(empty_database_url, scripts)
    assert revisions.is_current(empty_database_url, scripts, schema)
    with psycopg.connect(empty_database_url) as connection:
        connection.execute(f"UPDATE {schema}.alembic_version SET version_num = '0001'")
    assert not revisions.is_current(empty_database_url, scripts, schema)
