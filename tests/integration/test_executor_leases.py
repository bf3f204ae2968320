"""The leases: no run is written by two executors, and none is lost with its executor."""

import asyncio

import pytest

from executor_service.domain.execution import Lease, LeaseLost, Status
from executor_service.execution.pipeline import MAX_CRASHES
from executor_service.store.claims import Claims
from executor_service.store.executions import Executions
from servicekit.background.tasks import running
from tests.support.claims import claim, expire_leases, finish
from tests.support.executor import Bench, job
from tests.support.waiting import eventually


async def test_a_run_whose_executor_died_is_taken_over_when_its_lease_ends(bench: Bench, other: Bench) -> None:
    await bench.inbox.accept([job()])
    (first,) = await claim(bench)
    assert await claim(other) == []

    await expire_leases(bench)
    (second,) = await claim(other)

    assert second.lease == Lease(first.lease.run_id, 2, "two")
    assert second.crashes == 1


async def test_an_attempt_without_its_lease_can_write_nothing_more(bench: Bench, other: Bench) -> None:
    await bench.inbox.accept([job()])
    (frozen,) = await claim(bench)
    await expire_leases(bench)
    (taken_over,) = await claim(other)

    with pytest.raises(LeaseLost):
        await Executions(bench.database).set_progress(frozen.lease, completed=1, total=2)
    with pytest.raises(LeaseLost):
        await finish(bench, frozen.lease)

    await finish(other, taken_over.lease)
    assert await bench.value("SELECT status || attempt FROM executor.executions") == "SUCCEEDED2"


async def test_a_heartbeat_renews_leases_and_learns_of_lost_ones(bench: Bench, other: Bench) -> None:
    await bench.inbox.accept([job(), job()])
    kept, lost = await claim(bench, lease_seconds=1)
    await bench.rows(
        "UPDATE executor.executions SET lease_until = now() - interval '1 second' WHERE run_id = %(id)s",
        id=lost.lease.run_id,
    )
    await claim(other)

    run_ids = [kept.lease.run_id, lost.lease.run_id]
    ours = await Claims(bench.database).renew(run_ids, owner="one", lease_seconds=100)

    assert ours == {(kept.lease.run_id, 1)}
    seconds = "SELECT extract(epoch FROM lease_until - now()) FROM executor.executions WHERE run_id = %(id)s"
    assert await bench.value(seconds, id=kept.lease.run_id) > 90


async def test_a_heartbeat_does_not_wait_for_a_run_that_is_being_written(bench: Bench) -> None:
    await bench.inbox.accept([job(), job()])
    written, idle = await claim(bench)
    async with bench.database.transaction() as writing:
        await Claims(writing).lock(written.lease)
        async with asyncio.timeout(20):
            run_ids = [written.lease.run_id, idle.lease.run_id]
            ours = await Claims(bench.database).renew(run_ids, owner="one", lease_seconds=100)
    assert ours == {(written.lease.run_id, 1), (idle.lease.run_id, 1)}


async def test_the_work_stops_at_once_when_its_lease_is_lost(bench: Bench) -> None:
    await bench.stock(1)
    bench.provider.open.clear()
    async with bench.working():
        await bench.inbox.accept([job()])
        await bench.provider.waiting.wait()
        # In one step: a heartbeat that comes between the end of a lease and the next claim renews it.
        await bench.rows("UPDATE executor.executions SET lease_owner = 'two', attempt = 2")
        await bench.heartbeat.tick()
        await eventually(lambda: not len(bench.leases))
        bench.provider.open.set()
    assert await bench.value("SELECT count(*) FROM executor.drafts") == 0
    assert await bench.value("SELECT lease_owner FROM executor.executions") == "two"


async def test_an_attempt_that_lost_its_lease_does_not_stop_the_next_attempt(bench: Bench) -> None:
    """The process that hands a run back may be the one that takes it again, before the first attempt is quite over."""
    await bench.stock(1)
    bench.provider.open.clear()
    run = job()
    await bench.inbox.accept([run])
    (first,) = await claim(bench)
    await expire_leases(bench)
    (second,) = await claim(bench)
    async with running(bench.outcomes):
        bench.claimer.start_claimed([first, second])
        await bench.heartbeat.tick()
        await eventually(lambda: list(bench.leases) == [second.lease])
        bench.provider.open.set()
        await eventually(lambda: not len(bench.leases))
    assert await bench.value("SELECT status || attempt FROM executor.executions") == "SUCCEEDED2"


async def test_work_that_is_stopped_before_its_first_step_keeps_no_slot(bench: Bench) -> None:
    await bench.inbox.accept([job()])
    claimed = await claim(bench)
    bench.claimer.start_claimed(claimed)
    bench.leases.revoke(claimed[0].lease.run_id)
    await eventually(lambda: not len(bench.leases))


async def test_a_stopped_executor_hands_its_runs_back_at_once(bench: Bench, other: Bench) -> None:
    await bench.stock(1)
    bench.provider.open.clear()
    async with bench.working():
        await bench.inbox.accept([job()])
        await bench.provider.waiting.wait()
    bench.provider.open.set()

    (again,) = await claim(other)

    assert (again.lease.attempt, again.crashes) == (2, 0)


async def test_a_run_whose_executors_keep_dying_is_given_up(bench: Bench, other: Bench) -> None:
    await bench.stock(1)
    poison = job()
    await bench.inbox.accept([poison])
    for _ in range(MAX_CRASHES):
        await claim(other)
        await expire_leases(bench)
    async with bench.working():
        state = await bench.execute(poison)
    assert (state.status, state.error_code) == (Status.FAILED, "MAX_ATTEMPTS_EXCEEDED")
    assert state.attempt == MAX_CRASHES
    assert bench.provider.requests == 0


async def test_runs_whose_executors_died_twice_are_tried_one_after_the_other(bench: Bench, other: Bench) -> None:
    """One of them may be the reason; those that only were there must not end as it does."""
    await bench.stock(0)
    together = [job() for _ in range(3)]
    await bench.inbox.accept(together)
    for _ in range(2):
        assert len(await claim(other)) == len(together)
        await expire_leases(bench)

    (first,) = await claim(other)
    assert first.crashes == 2
    beside = await Claims(bench.database).claim(owner="two", limit=10, lease_seconds=15, doubtful=0)
    assert beside.executions == []
    fresh = job()
    await bench.inbox.accept([fresh])
    beside = await Claims(bench.database).claim(owner="two", limit=10, lease_seconds=15, doubtful=0)
    assert [execution.lease.run_id for execution in beside.executions] == [fresh.run_id]

    await expire_leases(bench)
    async with bench.working():
        await eventually(lambda: finished(bench, Status.SUCCEEDED, 3))  # the fresh one, and two of the three
        await eventually(lambda: finished(bench, Status.FAILED, 1))  # its third crash, by all signs


async def finished(bench: Bench, status: Status, count: int) -> bool:
    query = "SELECT count(*) FROM executor.executions WHERE status = %(status)s"
    return bool(await bench.value(query, status=status.value) == count)


async def test_an_unknown_error_fails_the_run_and_shows_only_the_request_id(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    (product,) = await bench.stock(1)
    bench.provider.failing[product] = RuntimeError("the secret inside")
    async with bench.working():
        state = await bench.preview(expect=Status.FAILED)
    assert state.error_code == "INTERNAL_ERROR"
    assert "request-1" in state.error_message
    assert "secret" not in state.error_message
    assert "the secret inside" in caplog.text
