"""Deleting old runs in batches, or dropping a day's partition: both beside creates, over ten million history rows.

`.venv/bin/python -m benchmarks.retention` prints the table of docs/performance.md, "Old runs".
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import psycopg
from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2 import CreateRunRequest

import runs_service.app
from devstack.ports import free_ports
from devstack.postgres import Postgres
from runs_service import messages
from runs_service.retention import RunRetention
from runs_service.store import RunStore
from servicekit.clock import SystemClock
from servicekit.ids import first_uuid7, uuid7
from servicekit.postgres import migrations
from servicekit.postgres.database import Database

EVENTS = 5  # history rows of a run
DAYS = 100  # over which the runs are spread
KEPT = timedelta(days=90)
BATCH = 200  # runs that are created together, as by a busy service
PARTITIONED_DAYS = 10
SECONDS = 20.0  # of creates that are measured by themselves

FILL = """
INSERT INTO runs.runs (id, project_id, playbook_id, run_type, scope_id, status, created_at, run, request_id, dedup_key,
                       frees_on_success, fingerprint, deadline_at, reconcile_at, dispatched_at, event_number)
SELECT CAST(lpad(to_hex(CAST(extract(epoch FROM at) * 1000 AS bigint)), 12, '0') || '7' || substr(hash, 1, 3) || '8'
            || substr(hash, 4, 15) AS uuid),
       'shop-' || n %% 100, 'missing_seo_title', 'PREVIEW_GENERATE', '0123456789abcdef', 'SUCCEEDED', at,
       decode(repeat(hash, 19), 'hex'), hash, hash, true, decode(hash, 'hex'), at, at, at, 4
FROM (SELECT n, md5(CAST(n AS text)) AS hash,
             now() - make_interval(days => %(days)s) * (1 - n / CAST(%(runs)s AS double precision)) AS at
      FROM generate_series(CAST(%(first)s AS int), CAST(%(last)s AS int)) AS n) AS made"""
FILL_EVENTS = """
INSERT INTO runs.run_events (run_id, sequence, run, project_id)
SELECT id, sequence, run, project_id FROM runs.runs, generate_series(1, %(events)s) AS sequence ORDER BY id, sequence"""
PARTITIONED = """
ALTER TABLE runs.run_events RENAME TO run_events_in_one;
CREATE TABLE runs.run_events (LIKE runs.run_events_in_one INCLUDING DEFAULTS) PARTITION BY RANGE (run_id);
ALTER TABLE runs.run_events ADD PRIMARY KEY (run_id, sequence);
CREATE INDEX ON runs.run_events (project_id, xid);
ALTER TABLE runs.run_events ADD FOREIGN KEY (run_id) REFERENCES runs.runs (id) ON DELETE CASCADE;
GRANT ALL ON runs.run_events TO public"""


class Creates:
    """Creates runs, a batch after the other, and times them."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self.times: list[float] = []

    async def run(self) -> None:
        """Create until cancelled."""
        while True:
            now = datetime.now(UTC)
            request = CreateRunRequest(
                project_id="shop-1", playbook_id="missing_seo_title", run_type=Run.PREVIEW_GENERATE
            )
            batch = []
            for _ in range(BATCH):
                request.idempotency_key = str(uuid4())
                batch.append(messages.new_run(request, run_id=uuid7(), user_id="u", request_id="r", now=now))
            began = time.perf_counter()
            await self._store.runs.create(batch)
            self.times.append(time.perf_counter() - began)

    async def during(self, work: Callable[[], Awaitable[object]]) -> float:
        """Create while `work` is done; return how many seconds that took."""
        self.times.clear()
        creating = asyncio.create_task(self.run())
        began = time.perf_counter()
        try:
            await work()
            return time.perf_counter() - began
        finally:
            creating.cancel()
            await asyncio.wait([creating])

    def words(self, seconds: float) -> str:
        """Return what was measured in so many seconds."""
        times = sorted(self.times)
        return (
            f"{len(times) * BATCH / seconds:,.0f} runs/s created; a batch of {BATCH}: "
            f"median {statistics.median(times) * 1000:.0f} ms, p99 {times[int(len(times) * 0.99)] * 1000:.0f} ms, "
            f"longest {times[-1] * 1000:.0f} ms"
        )


class Timed(RunRetention):
    """Notes how long each batch takes."""

    times: list[float]
    runs = 0

    async def batches(self) -> AsyncIterator[int]:
        """Delete, and note how long each batch took."""
        self.times, began = [], time.perf_counter()
        async for count in super().batches():
            self.times.append(time.perf_counter() - began)
            self.runs += count
            yield count
            began = time.perf_counter()


def say(text: str) -> None:
    """Print a line, with the time."""
    print(f"{datetime.now(UTC):%H:%M:%S} {text}", flush=True)


async def measure(url: str, runs: int) -> None:
    """Measure creates alone, beside batches, and beside a drop, and print it."""
    database = Database(url, pool_size=4, application_name="retention", answer_timeout=600)
    store = RunStore(database, reconcile_after=timedelta(hours=1))
    creates = Creates(store)

    async def sizes() -> str:
        row = await database.fetch_one(
            """SELECT pg_size_pretty(sum(pg_total_relation_size(relid))) AS size, sum(n_dead_tup) AS dead,
                      sum(autovacuum_count) AS vacuums FROM pg_stat_user_tables WHERE relname LIKE 'run%%'"""
        )
        return f"{row.size}, {row.dead:,} dead rows, autovacuum has run {row.vacuums} times"

    say(f"{runs:,} runs, {runs * EVENTS:,} history rows: {await sizes()}")
    say(f"alone: {creates.words(await creates.during(lambda: asyncio.sleep(SECONDS)))}")

    timed = Timed(store, SystemClock(), kept={"SUCCEEDED": KEPT})
    seconds = await creates.during(timed.tick)
    times = sorted(timed.times)
    say(
        f"beside batches: {timed.runs:,} runs deleted in {seconds:.1f} s with the rests, {sum(times):.1f} s without: "
        f"{timed.runs / sum(times):,.0f} runs/s; a batch: median {statistics.median(times) * 1000:.0f} ms, "
        f"longest {times[-1] * 1000:.0f} ms"
    )
    say(f"  {creates.words(seconds)}")
    say(f"  then: {await sizes()}")
    began = time.perf_counter()
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute("VACUUM runs.run_events")
        await connection.execute("VACUUM runs.runs")
        say(f"  VACUUM of both tables: {time.perf_counter() - began:.1f} s")
        say(f"after it, alone: {creates.words(await creates.during(lambda: asyncio.sleep(SECONDS)))}")

        # The same history in partitions of a day: of the ten oldest days, and of today for what is created.
        today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        days = [today - KEPT + timedelta(days=n) for n in range(PARTITIONED_DAYS)]
        await connection.execute(PARTITIONED)
        for day in [*days, today]:
            bounds = f"FROM ('{first_uuid7(day)}') TO ('{first_uuid7(day + timedelta(days=1))}')"
            await connection.execute(
                f"CREATE TABLE runs.day_{day:%Y%m%d} PARTITION OF runs.run_events FOR VALUES {bounds}"
            )
        ends = first_uuid7(days[0]), first_uuid7(days[-1] + timedelta(days=1))
        await connection.execute(
            "INSERT INTO runs.run_events SELECT * FROM runs.run_events_in_one WHERE run_id >= %s AND run_id < %s", ends
        )
        rows = await (await connection.execute(f"SELECT count(*) FROM runs.day_{days[0]:%Y%m%d}")).fetchone()
        say(f"partitions, alone: {creates.words(await creates.during(lambda: asyncio.sleep(SECONDS)))}")

        async def drop() -> None:
            await asyncio.sleep(2)
            began = time.perf_counter()
            await connection.execute(f"DROP TABLE runs.day_{days[0]:%Y%m%d}")
            say(f"  DROP TABLE of a day with {rows[0] if rows else 0:,} rows: {time.perf_counter() - began:.3f} s")
            await asyncio.sleep(2)

        say(f"beside a drop: {creates.words(await creates.during(drop))}")
    await database.close()


def main() -> None:
    """Fill a PostgreSQL of its own, measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2_000_000)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory(prefix="retention-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        server = Postgres(folder / "data", port=free_ports(1)[0], password="retention", log=folder / "log")
        with server:
            url = server.url()
            migrations.upgrade(url, runs_service.app.MIGRATIONS)
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("SET session_replication_role = replica")  # no look-up for each foreign key
                connection.execute("SET maintenance_work_mem = '256MB'")
                step = 200_000
                for first in range(1, runs + 1, step):
                    last = min(first + step - 1, runs)
                    connection.execute(FILL, {"days": DAYS, "runs": runs, "first": first, "last": last})
                say("runs are there")
                connection.execute(FILL_EVENTS, {"events": EVENTS})
                say("history is there")
                connection.execute("VACUUM ANALYZE runs.runs")
                connection.execute("VACUUM ANALYZE runs.run_events")
            asyncio.run(measure(url, runs))


if __name__ == "__main__":
    main()
