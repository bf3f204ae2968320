"""The claimer: what it takes, what it leaves, and what it keeps from jobs that come in meanwhile."""

from collections.abc import Sequence
from uuid import UUID

import psycopg

from executor_service.domain.execution import Job
from executor_service.store.claims import DOUBTFUL_CRASHES
from tests.support.executor import Bench, job
from tests.support.waiting import eventually

SLOTS = 4  # of a bench


def under_way(bench: Bench) -> set[UUID]:
    return {lease.run_id for lease in bench.leases}


async def stocked(bench: Bench, jobs: Sequence[Job]) -> Sequence[Job]:
    """Store jobs that wait for a claim, and let the provider keep each run under way."""
    for project in {each.project_id for each in jobs}:
        await bench.stock(1, project=project)
    bench.slots.backlog = True  # so that none is claimed as it comes in
    await bench.inbox.accept(list(jobs))
    bench.provider.open.clear()
    return jobs


async def test_a_claim_that_takes_its_time_has_its_slots_reserved(bench: Bench) -> None:
    (first,) = await stocked(bench, [job()])
    async with bench.working():
        await eventually(lambda: under_way(bench) == {first.run_id} and bench.slots.free == SLOTS - 1)
        with psycopg.connect(bench.url) as blocker:
            blocker.execute("LOCK TABLE executor.executions IN ACCESS EXCLUSIVE MODE")
            bench.claimer.wake()
            await eventually(lambda: bench.slots.free == 0)
        await eventually(lambda: bench.slots.free == SLOTS - 1)
        bench.provider.open.set()
        await eventually(lambda: bench.slots.free == SLOTS)


async def test_what_is_left_for_want_of_slots_is_not_overtaken(bench: Bench) -> None:
    await stocked(bench, [job(project=f"p{n}") for n in range(SLOTS + 2)])
    async with bench.working():
        await eventually(lambda: len(bench.leases) == SLOTS)
        assert bench.slots.backlog
        bench.provider.open.set()


async def test_runs_older_than_a_starting_process_are_left_alone_and_not_overtaken(executor_database: str) -> None:
    async with Bench(executor_database, startup_delay=3600) as bench:
        _, new = await stocked(bench, [job(project="old"), job(project="new")])
        older = "UPDATE executor.executions SET created_at = '2020-01-01' WHERE project_id = 'old'"
        await bench.rows(older)
        async with bench.working():
            await eventually(lambda: under_way(bench) == {new.run_id})
            assert bench.slots.backlog, "a job that comes in would overtake the old one"
            bench.provider.open.set()
            await eventually(lambda: not len(bench.leases))


async def test_runs_whose_executors_died_twice_are_tried_one_after_the_other(bench: Bench) -> None:
    suspects = await stocked(bench, [job(project=f"p{n}") for n in range(2)])
    await bench.rows(
        "UPDATE executor.executions SET status = 'RUNNING', attempt = 2, crashes = %(crashes)s, lease_owner = 'dead', "
        "lease_until = now() - interval '1 second'",
        crashes=DOUBTFUL_CRASHES - 1,
    )
    of_suspects = {each.run_id for each in suspects}
    async with bench.working():
        await eventually(lambda: len(under_way(bench) & of_suspects) == 1)
        (other,) = await stocked(bench, [job(project="other")])
        bench.claimer.wake()
        await eventually(lambda: other.run_id in under_way(bench))
        assert len(under_way(bench) & of_suspects) == 1
        bench.provider.open.set()
        await eventually(lambda: not len(bench.leases))
        ended = "SELECT count(*) FROM executor.executions WHERE status = 'SUCCEEDED'"
        while await bench.value(ended) < 3:  # the second suspect has had its turn
            await eventually(lambda: not len(bench.leases))
