"""What happens to runs while the database or the broker is away."""

import asyncio
from collections.abc import Sequence
from hashlib import sha256

import pytest
from playbooks.executor.v1.job_pb2 import RunEventBatch

from executor_service.domain.execution import Lease, Status
from executor_service.domain.suggestion import Suggestion
from executor_service.execution.cancellation import Cancellation, DeadlineSweeper
from executor_service.execution.event_publisher import OutboxSweeper
from executor_service.store.claims import Claims
from executor_service.store.jobs import Jobs
from executor_service.store.suggestions import Suggestions
from servicekit.broker import BrokerUnavailable
from tests.support.executor import Bench, job
from tests.support.waiting import eventually

CUT = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE application_name LIKE 'bench-%%' AND pid <> pg_backend_pid()"""


async def test_a_run_survives_that_all_connections_are_cut(bench: Bench) -> None:
    await bench.stock(4)
    bench.provider.open.clear()
    run = job(sample=4)
    async with bench.working():
        await bench.inbox.accept([run])
        await bench.provider.waiting.wait()
        await bench.rows(CUT)
        bench.provider.open.set()
        await eventually(lambda: ended(bench))
    (row,) = await bench.rows("SELECT status, crashes, ai_reserved FROM executor.executions")
    assert tuple(row) == ("SUCCEEDED", 0, 0)


async def ended(bench: Bench) -> bool:
    try:
        return bool(await bench.value("SELECT finished_at IS NOT NULL FROM executor.executions"))
    except Exception:  # our own connections are cut too
        return False


async def test_connections_cut_again_and_again_delay_runs_and_lose_none(bench: Bench, other: Bench) -> None:
    ids = await bench.stock(30)
    async with bench.working(), other.working():
        preview = await bench.preview(sample=1)
        runs = [job(project="p", playbook_id=f"missing_seo_{field}") for field in ("title", "description") * 6]
        await bench.inbox.accept(runs)
        for _ in range(8):
            await eventually(lambda: cut(other))
        await eventually(lambda: all_ended(bench), timeout=30)
    statuses = await bench.rows("SELECT DISTINCT status, error_code FROM executor.executions")
    assert [tuple(row) for row in statuses] == [("SUCCEEDED", "")]
    assert preview.result == {"affected_total": len(ids), "draft_generated": 1, "no_suggestion_count": 0}


async def cut(bench: Bench) -> bool:
    try:
        await bench.rows(CUT)
    except Exception:
        return False
    return True


async def all_ended(bench: Bench) -> bool:
    try:
        return await bench.value("SELECT bool_and(finished_at IS NOT NULL) FROM executor.executions") is True
    except Exception:
        return False


class Broker:
    """Takes events, or is away."""

    def __init__(self) -> None:
        self.away = False
        self.refused = asyncio.Event()
        self.events: list[tuple[str, int]] = []

    async def publish(self, body: bytes) -> None:
        if self.away:
            self.refused.set()
            raise BrokerUnavailable("away")
        self.events += [(event.run_id, event.number) for event in RunEventBatch.FromString(body).events]


@pytest.fixture
def broker(bench: Bench) -> Broker:
    broker = Broker()
    bench.publisher._publisher = broker  # type: ignore[assignment]
    return broker


async def test_events_are_published_after_their_commit_and_marked(bench: Bench, broker: Broker) -> None:
    await bench.stock(2)
    async with bench.working():
        state = await bench.preview()
        await eventually(lambda: outbox_is_empty(bench))
    numbers = [number for _, number in broker.events]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == state.number


async def test_events_that_the_broker_did_not_take_are_published_when_it_is_back(bench: Bench, broker: Broker) -> None:
    await bench.stock(2)
    broker.away = True
    async with bench.working():
        state = await bench.preview()
        await broker.refused.wait()
        # While it is away: once it is back, the next event may be published at once.
        assert not await outbox_is_empty(bench)
        broker.away = False
        await bench.rows("UPDATE executor.executions SET updated_at = now() - interval '1 minute'")
        await OutboxSweeper(bench.database, bench.publisher).tick()
        await eventually(lambda: outbox_is_empty(bench))
    assert broker.events[-1] == (str(state.run_id), state.number)


async def test_a_sweep_leaves_alone_what_is_on_its_way(bench: Bench, broker: Broker) -> None:
    await bench.stock(1)
    broker.away = True
    async with bench.working():
        await bench.preview()
    broker.away = False
    await OutboxSweeper(bench.database, bench.publisher).tick()
    assert broker.events == []


async def test_a_full_outbox_is_published_without_a_pause(bench: Bench, broker: Broker) -> None:
    await bench.stock(0)
    broker.away = True
    async with bench.working():
        for _ in range(5):
            await bench.preview()
    await bench.rows("UPDATE executor.executions SET updated_at = now() - interval '1 minute'")
    broker.away = False
    await OutboxSweeper(bench.database, bench.publisher, batch=2).tick()
    assert await outbox_is_empty(bench)
    assert len(broker.events) == 5


async def test_a_claim_whose_answer_was_lost_is_taken_again_at_once(bench: Bench) -> None:
    await bench.stock(1)
    await bench.inbox.accept([job()])
    # Its answer reaches no executor.
    await Claims(bench.database).claim(owner=bench.owner, limit=1, lease_seconds=1000)
    async with bench.working():
        await eventually(lambda: ended(bench))
    assert await bench.value("SELECT crashes FROM executor.executions") == 0


async def test_runs_that_wait_past_their_deadline_fail_and_others_wait_on(bench: Bench) -> None:
    late, in_time = job(), job()
    await bench.inbox.accept([late, in_time])
    sweeper = DeadlineSweeper(Cancellation(bench.database, bench.leases, bench.publisher))
    await sweeper.tick()
    assert await bench.value("SELECT count(*) FROM executor.executions WHERE status = 'QUEUED'") == 2
    overdue = "UPDATE executor.executions SET deadline_at = now() - interval '1 second' WHERE run_id = %(id)s"
    await bench.rows(f"{overdue} RETURNING 1", id=late.run_id)
    await sweeper.tick()
    states = await bench.rows("SELECT run_id, status, error_code FROM executor.executions")
    assert {tuple(row) for row in states} == {
        (late.run_id, "FAILED", "RUN_DEADLINE_EXCEEDED"),
        (in_time.run_id, "QUEUED", ""),
    }


async def outbox_is_empty(bench: Bench) -> bool:
    unpublished = "SELECT count(*) FROM executor.executions WHERE published_number < event_number"
    return await bench.value(unpublished) == 0


async def test_two_runs_that_got_the_same_suggestions_store_them_without_a_deadlock(bench: Bench) -> None:
    await bench.stock(0)
    runs = await Jobs(bench.database).enqueue_claimed([job(), job()], owner="one", lease_seconds=60)

    async def store(lease: Lease, arrived: Sequence[Suggestion]) -> None:
        await Suggestions(bench.database).record(
            lease, "p", arrived, model="m", usage=None, completed=1, total=1, report=False
        )

    for attempt in range(100):  # one in ten met before they were stored in one order
        arrived = [Suggestion(sha256(f"{attempt} {n}".encode()).digest(), "text") for n in range(100)]
        await asyncio.gather(store(runs[0].lease, arrived), store(runs[1].lease, arrived[::-1]))
    assert await bench.value("SELECT count(*) FROM executor.suggestions") == 10_000


async def test_a_caller_that_stops_following_does_not_stop_the_run(bench: Bench) -> None:
    await bench.stock(1)
    bench.provider.open.clear()
    run = job()
    async with bench.working():
        following = asyncio.create_task(bench.execute(run))
        await bench.provider.waiting.wait()
        following.cancel()
        await asyncio.wait([following])
        bench.provider.open.set()
        state = await bench.execute(run)  # again: not executed twice
    assert state.status is Status.SUCCEEDED
    assert bench.provider.requests == 1
    assert not bench.publisher._subscribers
