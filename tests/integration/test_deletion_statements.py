"""What the statements that delete runs and projects read: what they delete, however many runs there are beside it."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from executor_service.store.deletions import BATCH as EXECUTIONS
from executor_service.store.deletions import SUGGESTIONS, Deletions
from runs_service.store import RunStore
from servicekit.postgres.database import Database
from tests.support.database import rows

RUNS, BATCH = 20_000, 50
FILL = f"""
WITH made AS (
    INSERT INTO runs.runs (id, project_id, playbook_id, run_type, scope_id, status, created_at, run, request_id,
                           dedup_key, frees_on_success, fingerprint, deadline_at, reconcile_at, dispatched_at)
    SELECT uuidv7(interval '-2 days'), 'p', 'missing_seo_title', 'PREVIEW_GENERATE', '', 'FAILED',
           now() - interval '2 days', '', 'r', 'k', true, '', now(), now(), now()
    FROM generate_series(1, {RUNS})
    RETURNING id
), history AS (
    INSERT INTO runs.run_events (run_id, sequence, run, project_id) SELECT id, 1, '', 'p' FROM made RETURNING run_id
)
INSERT INTO runs.calls (project_id, name, run_id, meaning, created)
SELECT 'p', CAST(run_id AS text), run_id, '', true FROM history"""
FILL_EXECUTOR = (
    "INSERT INTO executor.projects (id, plan) VALUES ('p', 'PRO')",
    f"""INSERT INTO executor.executions (run_id, project_id, run_type, job, status)
        SELECT uuidv7(), 'p', 'APPLY', '', 'SUCCEEDED' FROM generate_series(1, {RUNS})""",
    f"""INSERT INTO executor.suggestions (project_id, fingerprint, text, model)
        SELECT 'p', decode(lpad(to_hex(n), 64, '0'), 'hex'), '', '' FROM generate_series(1, {RUNS}) AS n""",
    f"""INSERT INTO executor.products (project_id, id, external_id, title, description, seo_title, seo_description)
        SELECT 'p', lpad(CAST(n AS text), 9, '0'), '', '', '', '', '' FROM generate_series(1, {RUNS}) AS n""",
    "ANALYZE executor.executions, executor.suggestions, executor.products",
)
READ = "SELECT sum(idx_tup_fetch) AS number FROM pg_stat_user_tables"


@pytest.fixture
async def database(runs_database_url: str) -> AsyncIterator[Database]:
    """One connection to a database with many runs, whose planner knows that there are many."""
    with psycopg.connect(runs_database_url, autocommit=True) as connection:
        connection.execute(FILL)
        connection.execute("ANALYZE runs.runs, runs.run_events, runs.calls")
    database = Database(runs_database_url, pool_size=1, application_name="deletions")
    yield database
    await database.close()


@pytest.fixture
def store(database: Database) -> RunStore:
    return RunStore(database, reconcile_after=timedelta(hours=1))


async def read(database: Database) -> int:
    """Return how many rows of all tables were fetched by an index so far."""
    await database.execute("SELECT pg_stat_force_next_flush()")
    return int((await database.fetch_one(READ)).number)


async def test_retention_reads_what_it_deletes(store: RunStore, database: Database) -> None:
    before = await read(database)
    deleted = await store.deletions.expired({"FAILED": datetime.now(UTC) - timedelta(days=1)}, limit=BATCH)
    assert (deleted.runs, deleted.changes) == (BATCH, BATCH)
    assert await read(database) - before < 20 * BATCH


async def test_a_purge_reads_what_it_deletes(store: RunStore, database: Database) -> None:
    before = await read(database)
    deleted = await store.deletions.of_project("p", limit=BATCH)
    assert (deleted.runs, deleted.changes) == (BATCH, BATCH)
    assert await read(database) - before < 20 * BATCH


@pytest.mark.parametrize(
    ("kind", "batch"), [("executions", EXECUTIONS), ("suggestions", SUGGESTIONS), ("products", SUGGESTIONS)]
)
async def test_the_executor_reads_what_it_deletes_of_a_project(kind: str, batch: int, executor_database: str) -> None:
    with psycopg.connect(executor_database, autocommit=True) as connection:
        for statement in FILL_EXECUTOR:
            connection.execute(statement)  # type: ignore[arg-type]
    database = Database(executor_database, pool_size=1, application_name="deletions")
    try:
        before = await read(database)
        assert await Deletions(database).of_project(kind, "p") == batch
        assert await read(database) - before < 5 * batch
    finally:
        await database.close()


async def test_positions_that_have_expired_stay_so(store: RunStore, database: Database) -> None:
    later = "INSERT INTO runs.expired_changes (project_id, xid) VALUES ('q', '18446744073709551615')"
    await database.execute(later)
    await store.deletions.expire_positions("q")  # a purge that began before a later one
    (row,) = await rows(database, "SELECT CAST(xid AS text) AS xid FROM runs.expired_changes WHERE project_id = 'q'")
    assert row.xid == "18446744073709551615"
    await database.execute("DELETE FROM runs.expired_changes WHERE project_id = 'q'")
