"""What waits, as the metrics measure it: correct, cheap with a history of any size, and never an old value."""

import math
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from playbooks.runs.v1.run_pb2 import Run
from prometheus_client import CollectorRegistry, Gauge

from devstack.ports import HOST
from executor_service.store.backlog import Backlog as ExecutorBacklog
from executor_service.store.claims import Claims
from executor_service.store.jobs import Jobs
from runs_service.store import RunStore
from runs_service.store.backlog import Backlog
from servicekit.background.sampling import Sampler
from servicekit.errors import ServiceError
from servicekit.postgres.database import Database
from servicekit.postgres.metrics import PoolMetrics
from tests.support.database import plan_of
from tests.support.executor import Bench, job
from tests.support.runs import NOW, event, new_run

NOBODY = f"postgresql://nobody@{HOST}:1/nothing"


@pytest.fixture
def store(runs_database: Database) -> RunStore:
    return RunStore(runs_database, reconcile_after=timedelta(hours=1))


async def ended(store: RunStore, count: int) -> None:
    """Store runs that have succeeded."""
    stored = await store.runs.create([new_run(project_id="done", idempotency_key=f"done-{n}") for n in range(count)])
    events = [
        event(one.run.id, number, status, project_id="done")
        for one in stored
        for number, status in ((1, Run.RUNNING), (2, Run.SUCCEEDED))
    ]
    await store.history.apply_events(events, NOW)


async def test_runs_are_counted_by_what_they_wait_for(store: RunStore) -> None:
    await ended(store, 3)
    now = datetime.now(UTC)
    ages = (100, 300, 10, 500)
    queued, oldest, sent, running = [
        stored.run
        for age in ages
        for stored in await store.runs.create([new_run(now=now - timedelta(seconds=age), idempotency_key=str(age))])
    ]
    await store.outbox.mark_dispatched({oldest.id: 0.0, sent.id: 0.0, running.id: 0.0})
    await store.history.apply_events([event(running.id, 1, Run.RUNNING)], now)
    await store.stops.request(queued.id)
    sizes = dict(await store.backlog.sizes())
    assert 300 <= sizes.pop("oldest_queued") < 330
    assert sizes == {"queued": 3, "running": 1, "undispatched": 1, "stops_pending": 1}


async def test_nothing_waits_in_an_empty_database(store: RunStore, bench: Bench) -> None:
    assert set((await store.backlog.sizes()).values()) == {0}
    assert set((await ExecutorBacklog(bench.database).sizes()).values()) == {0}


async def test_the_history_is_not_read_for_it(store: RunStore, runs_database: Database) -> None:
    await ended(store, 500)
    await store.runs.create([new_run(idempotency_key=f"waits-{n}") for n in range(7)])
    nodes = await plan_of(runs_database, Backlog._SIZES)
    scans = [node for node in nodes if "Scan" in node["Node Type"] and "Relation Name" in node]
    assert {scan["Index Name"] for scan in scans} == {"runs_overdue", "runs_to_stop"}
    assert sum(scan["Actual Rows"] + scan.get("Rows Removed by Filter", 0) for scan in scans) == 7


async def test_executions_are_counted_by_what_they_wait_for(bench: Bench) -> None:
    jobs = Jobs(bench.database)
    await jobs.enqueue([job() for _ in range(4)])
    claimed = (await Claims(bench.database).claim(owner="one", limit=2, lease_seconds=60)).executions
    await bench.rows(
        "UPDATE executor.executions SET created_at = now() - interval '90 seconds' WHERE status = 'QUEUED'"
    )
    await bench.rows(
        """UPDATE executor.executions
        SET lease_until = now() - interval '1 second', updated_at = now() - interval '1 hour'
        WHERE run_id = %(id)s""",
        id=claimed[0].lease.run_id,
    )
    sizes = dict(await ExecutorBacklog(bench.database).sizes())
    assert 90 <= sizes.pop("oldest_inbox") < 120
    assert 3600 <= sizes.pop("oldest_unpublished") < 3630
    assert sizes == {"inbox": 2, "leases_expired": 1, "unpublished": 2}
    nodes = await plan_of(bench.database, ExecutorBacklog._SIZES, {"limit": 100})
    indexes = {node["Index Name"] for node in nodes if "Index Name" in node}
    # Both of QUEUED executions serve as well.
    assert indexes - {"executions_queued", "executions_overdue"} == {"executions_running", "executions_unpublished"}
    assert not any(node["Node Type"] == "Seq Scan" for node in nodes)


async def test_the_oldest_execution_is_found_also_among_those_that_are_not_counted(bench: Bench) -> None:
    jobs = Jobs(bench.database)
    for project in ("q", "p", "r"):
        await jobs.enqueue([job(project=project) for _ in range(3)])
    oldest = job(project="q")
    await jobs.enqueue([oldest])
    await bench.rows(
        "UPDATE executor.executions SET created_at = now() - interval '90 seconds' WHERE run_id = %(id)s",
        id=oldest.run_id,
    )
    sizes = await ExecutorBacklog(bench.database, limit=2).sizes()
    assert sizes["inbox"] == 2
    assert 90 <= sizes["oldest_inbox"] < 120


async def test_a_gauge_has_no_value_while_the_database_is_away(store: RunStore) -> None:
    gauges = {"queued": Gauge("queued", "Waiting", registry=None)}
    await store.runs.create([new_run()])
    await Sampler(store.backlog, gauges).tick()
    assert gauges["queued"]._value.get() == 1
    away = Database(NOBODY, pool_size=1, application_name="test")
    await Sampler(Backlog(away), gauges).tick()
    assert math.isnan(gauges["queued"]._value.get())


# Pools


@pytest.fixture
async def narrow(runs_database_url: str) -> AsyncIterator[Database]:
    """A database of one connection, for which nobody waits long."""
    database = Database(runs_database_url, pool_size=1, application_name="narrow", answer_timeout=1.0)
    yield database
    await database.close()


async def test_a_pool_says_who_waits_and_who_waited_in_vain(narrow: Database) -> None:
    registry = CollectorRegistry()
    PoolMetrics(registry, {"runs": narrow})

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"playbook_runs_database_{name}", labels)

    assert value("up") == value("pool_size", pool="runs") == 1
    async with narrow.transaction():
        assert value("connections", pool="runs", state="busy") == 1
        with pytest.raises(ServiceError):
            await narrow.execute("SELECT 1")
    assert value("pool_timeouts_total", pool="runs") == 1
    assert value("pool_waiting", pool="runs") == 0
    assert [value("connections", pool="runs", state=state) for state in ("busy", "idle")] == [0, 1]


async def test_a_database_that_is_away_is_not_up_until_it_answers(runs_database: Database) -> None:
    away = Database(NOBODY, pool_size=1, application_name="test")
    with pytest.raises(ServiceError):
        await away.execute("SELECT 1")
    assert (away.is_up, runs_database.is_up) == (False, True)
