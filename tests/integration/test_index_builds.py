"""Indexes that a migration builds or drops: the services write meanwhile, and what was interrupted is made good."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import psycopg
import pytest

from runs_service import app
from servicekit.postgres import migrations, revisions
from tests.support.forking import Forks
from tests.support.waiting import eventually

MIGRATION = f'''
"""An index more."""

from servicekit.postgres.indexes import build_index

revision = "next"
down_revision = "{revisions.head(app.MIGRATIONS)}"
compatible_from = "{revisions.head(app.MIGRATIONS)}"


def upgrade() -> None:
    build_index("runs_by_type", "runs (run_type)", schema="runs")
'''
DROPPING_MIGRATION = MIGRATION.replace("build_index", "remove_index").replace(', "runs (run_type)"', "")
WRITE = "DELETE FROM runs.runs"
BUILDING = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX%' AND wait_event_type = 'Lock'"
DROPPING = BUILDING.replace("CREATE INDEX", "%DROP INDEX")
# In this database: services of other tests, in others, take turns as well.
WAITING = """
SELECT FROM pg_stat_activity
WHERE query LIKE '%pg_try_advisory_xact_lock%' AND pid <> pg_backend_pid() AND datname = current_database()"""
VALID = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('runs.runs_by_type')"


@pytest.fixture
def scripts(tmp_path: Path, empty_database_url: str) -> Path:
    """Return migrations with one more than the database has: it builds an index of the runs."""
    migrations.upgrade(empty_database_url, app.MIGRATIONS)
    copied = shutil.copytree(app.MIGRATIONS, tmp_path / "migrations", ignore=shutil.ignore_patterns("__pycache__"))
    (copied / "versions/next.py").write_text(MIGRATION)
    return copied


@pytest.fixture
def database(empty_database_url: str) -> Any:
    with psycopg.connect(empty_database_url, autocommit=True, options="-c lock_timeout=20s") as connection:
        yield connection


async def test_runs_are_written_while_it_is_built_and_an_interrupted_build_begins_anew(
    scripts: Path, empty_database_url: str, database: Any
) -> None:
    with psycopg.connect(empty_database_url) as writer:
        writer.execute(WRITE)  # a transaction that goes on: the build has to wait for its end
        building = asyncio.create_task(asyncio.to_thread(migrations.upgrade, empty_database_url, scripts))
        await eventually(lambda: database.execute(BUILDING).fetchone())
        database.execute(WRITE)  # waits for nothing: it fails after lock_timeout where the table is locked
        assert not building.done()
        ((pid,),) = database.execute(BUILDING)
        database.execute("SELECT pg_terminate_backend(%s)", [pid])
        with pytest.raises(Exception, match="terminating connection"):
            await building
    assert database.execute(VALID).fetchone() == (False,)
    last = revisions.head(app.MIGRATIONS)
    assert migrations.upgrade(empty_database_url, scripts) == f"schema runs: {last} → next"
    assert database.execute(VALID).fetchone() == (True,)
    assert migrations.upgrade(empty_database_url, scripts) == "schema runs: next, nothing to do"


async def test_runs_are_written_while_one_is_dropped_behind_a_dump_and_an_interrupted_drop_goes_on(
    scripts: Path, empty_database_url: str, database: Any
) -> None:
    database.execute("CREATE INDEX runs_by_type ON runs.runs (run_type)")
    (scripts / "versions/next.py").write_text(DROPPING_MIGRATION)
    with psycopg.connect(empty_database_url) as dump:
        dump.execute("SELECT FROM runs.runs")  # a transaction that goes on, as that of pg_dump does for hours
        dropping = asyncio.create_task(asyncio.to_thread(migrations.upgrade, empty_database_url, scripts))
        await eventually(lambda: database.execute(DROPPING).fetchone())
        database.execute(WRITE)
        assert not dropping.done()
        ((pid,),) = database.execute(DROPPING)
        database.execute("SELECT pg_terminate_backend(%s)", [pid])
        with pytest.raises(Exception, match="terminating connection"):
            await dropping
    last = revisions.head(app.MIGRATIONS)
    assert migrations.upgrade(empty_database_url, scripts) == f"schema runs: {last} → next"
    assert database.execute(VALID).fetchone() is None


async def test_a_second_process_that_waits_for_its_turn_does_not_keep_it_from_being_built(
    scripts: Path, empty_database_url: str, database: Any, runs_forks: Forks, tmp_path: Path
) -> None:
    with psycopg.connect(empty_database_url) as writer:
        writer.execute(WRITE)
        building = asyncio.create_task(asyncio.to_thread(migrations.upgrade, empty_database_url, scripts))
        await eventually(lambda: database.execute(BUILDING).fetchone())
        second = runs_forks.run(tmp_path / "log", "migrate", env={"RUNS_DATABASE_URL": empty_database_url})
        await eventually(lambda: database.execute(WAITING).rowcount == 2, timeout=30)
    await building
    assert database.execute(VALID).fetchone() == (True,)
    assert second.wait(60) == 0
    assert "next, of a newer release, which serves this one" in (tmp_path / "log").read_text()


def test_an_index_that_is_there_already_is_left_as_it_is(scripts: Path, empty_database_url: str, database: Any) -> None:
    database.execute("CREATE INDEX runs_by_type ON runs.runs (run_type)")
    oid = database.execute("SELECT to_regclass('runs.runs_by_type')::oid").fetchone()
    migrations.upgrade(empty_database_url, scripts)
    assert database.execute("SELECT to_regclass('runs.runs_by_type')::oid").fetchone() == oid
