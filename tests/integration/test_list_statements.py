"""What the statements that list runs read: a page, however many runs there are that their filters do not want."""

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
import pytest

from runs_service.predicates import PLAYBOOKS, RUN_TYPES, STATUSES
from runs_service.store import Filters, RunStore
from servicekit.postgres.database import Database

RUNS, LIMIT = 10_000, 20
# A shop whose products do not change: all of its runs but the newest have one scope. They are of four kinds; of all
# others there is none.
FILL = f"""
INSERT INTO runs.runs (id, project_id, playbook_id, run_type, scope_id, status, created_at, run, request_id,
                       dedup_key, frees_on_success, fingerprint, deadline_at, reconcile_at, dispatched_at)
SELECT uuidv7(at - now()), 'p', '{PLAYBOOKS[0]}', CASE n % 4 WHEN 0 THEN 'DRAFT_GENERATE' ELSE 'PREVIEW_GENERATE' END,
       CASE n WHEN {RUNS} THEN 'last' ELSE 'same' END,
       CASE n % 3 WHEN 0 THEN 'FAILED' ELSE 'SUCCEEDED' END,
       at, '', 'r', CAST(n AS text), true, '', at, at, at
FROM generate_series(1, {RUNS}) AS n, LATERAL (SELECT now() - ({RUNS} - n) * interval '1 minute' AS at) AS time"""
KINDS = 4
# Each kind's newest runs are read to choose among them, and then the runs of the page. Where there is none, a look.
MOST = (KINDS + 1) * LIMIT + len(PLAYBOOKS) * len(RUN_TYPES) * len(STATUSES)
READ = """
SELECT (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE schemaname = 'runs')
     + (SELECT sum(seq_tup_read) FROM pg_stat_user_tables WHERE schemaname = 'runs') AS number"""

# Every combination of filters, as the page offers them: with values that many runs have, one has, and none has.
LISTS = [
    Filters("p", playbook, run_type, scope, status)
    for playbook, run_type, scope, status in itertools.product(
        ("", *PLAYBOOKS), ("", *RUN_TYPES), ("", "same", "last", "none"), ("", "FAILED", "STALE")
    )
]


@pytest.fixture
async def database(runs_database_url: str) -> AsyncIterator[Database]:
    """One connection to a database with many runs of a project, whose planner knows them."""
    with psycopg.connect(runs_database_url, autocommit=True) as connection:
        connection.execute(FILL)
        connection.execute("VACUUM (ANALYZE) runs.runs")
    database = Database(runs_database_url, pool_size=1, application_name="lists")
    yield database
    await database.close()


@pytest.fixture
def read(database: Database) -> Callable[[Awaitable[object]], Awaitable[int]]:
    """Return a function that waits for a statement, and returns how many entries and rows that read."""

    async def number() -> int:
        await database.execute("SELECT pg_stat_force_next_flush()")
        return int((await database.fetch_one(READ)).number)

    async def read(statement: Awaitable[object]) -> int:
        before = await number()
        await statement
        return await number() - before

    return read


async def test_a_page_of_any_filters_reads_what_it_shows(
    database: Database, read: Callable[[Awaitable[object]], Awaitable[int]]
) -> None:
    runs = RunStore(database, reconcile_after=timedelta(hours=1)).runs
    middle = datetime.now(UTC) - timedelta(minutes=RUNS / 2), UUID(int=0)
    for filters in LISTS:
        assert await read(runs.page(filters, limit=LIMIT)) <= MOST, filters
        assert await read(runs.page(filters, limit=LIMIT, before=middle)) <= MOST, filters


async def test_the_retry_of_a_run_is_looked_up(
    database: Database, read: Callable[[Awaitable[object]], Awaitable[int]]
) -> None:
    runs = RunStore(database, reconcile_after=timedelta(hours=1)).runs
    for scope, status in itertools.product(("", "same"), ("", "FAILED")):
        filters = Filters("p", scope_id=scope, status=status, retry_of=str(UUID(int=1)))
        assert await read(runs.page(filters, limit=LIMIT)) <= 1, filters


async def test_a_watcher_of_a_project_begins_with_what_it_is_sent(
    database: Database, read: Callable[[Awaitable[object]], Awaitable[int]]
) -> None:
    store = RunStore(database, reconcile_after=timedelta(hours=1))
    for playbook, run_type in itertools.product(("", *PLAYBOOKS), ("", *RUN_TYPES)):
        filters = Filters("p", playbook, run_type)
        assert await read(store.newest(filters, limit=LIMIT)) <= MOST, filters
