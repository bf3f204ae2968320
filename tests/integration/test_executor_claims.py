"""The inbox and the claims: each run is taken once, and in a fair order."""

import asyncio
from collections.abc import Sequence
from uuid import UUID, uuid4

from playbooks.executor.v1.job_pb2 import RunJob, RunJobBatch
from playbooks.runs.v1.run_pb2 import Run

from executor_service.domain.execution import Execution, Job, Outcome, Status
from executor_service.store.claims import Claims
from executor_service.store.outcomes import Outcomes
from tests.support.claims import claim, expire_leases
from tests.support.executor import Bench, job


def body(*jobs: Job) -> bytes:
    return RunJobBatch(jobs=[RunJob.FromString(job.body) for job in jobs]).SerializeToString()


# Inbox


async def test_a_job_that_is_delivered_again_is_taken_once(bench: Bench) -> None:
    first, second = job(), job()
    await bench.inbox.consume([body(first, second), body(second, first)])
    await bench.inbox.consume([body(first)])
    assert await bench.value("SELECT count(*) FROM executor.executions") == 2


async def test_an_unreadable_job_is_dead_lettered_alone_and_the_others_are_stored(bench: Bench) -> None:
    good = job()
    unknown_playbook = RunJob(run_id=str(uuid4()), project_id="p", playbook_id="nonsense", run_type=Run.APPLY)
    no_type = RunJob(run_id=str(uuid4()), project_id="p", playbook_id="missing_seo_title")
    no_text = RunJob(run_id=str(uuid4()), project_id="\0", playbook_id="missing_seo_title", run_type=Run.APPLY)
    no_id = RunJob(run_id="7", project_id="p", playbook_id="missing_seo_title", run_type=Run.APPLY)
    no_time = RunJob.FromString(job().body)
    no_time.deadline.seconds = 10**12
    too_long = [
        RunJob.FromString(good.body + RunJob(**{field: "x" * (limit + 1)}).SerializeToString())
        for field, limit in {"project_id": 200, "scope_id": 64, "rules_hash": 64}.items()
    ]
    strange = [unknown_playbook, no_type, no_text, no_id, no_time, *too_long]
    mixed = RunJobBatch(jobs=[*strange, RunJob.FromString(good.body)]).SerializeToString()
    dead = await bench.inbox.consume([b"\xff\xff", mixed])
    assert await bench.value("SELECT run_id FROM executor.executions") == good.run_id
    assert sorted(letter.body for letter in dead) == sorted(
        [b"\xff\xff", *(RunJobBatch(jobs=[one]).SerializeToString() for one in strange)]
    )
    assert all(letter.reason for letter in dead)
    assert any(unknown_playbook.run_id in letter.reason for letter in dead)


async def test_a_claim_costs_the_same_however_many_runs_have_gone_through_since_the_last_vacuum(bench: Bench) -> None:
    async def entries_read() -> int:
        await bench.rows("SELECT pg_stat_force_next_flush()")
        await bench.rows("SELECT pg_stat_clear_snapshot()")
        query = "SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE schemaname = 'executor'"
        return int(await bench.value(query))

    async def read_for(claims: int) -> int:
        before = await entries_read()
        for _ in range(claims):
            await bench.inbox.accept([job() for _ in range(20)])
            claimed = await claim(bench, limit=20)
            await Outcomes(bench.database).finish([(one.lease, Outcome(Status.SUCCEEDED)) for one in claimed])
        return await entries_read() - before

    first = await read_for(20)
    await read_for(60)
    assert await read_for(20) < 2 * first


# Fairness


async def test_a_project_with_many_runs_does_not_delay_anothers_first(bench: Bench) -> None:
    await bench.inbox.accept([job(project="busy") for _ in range(200)])
    small = [job(project=f"small-{n}") for n in range(3)]
    await bench.inbox.accept(small)

    claimed = {execution.lease.run_id for execution in await claim(bench, limit=4)}

    assert claimed >= {each.run_id for each in small}


async def test_running_executions_count_against_their_project(bench: Bench) -> None:
    await bench.inbox.accept([job(project="busy") for _ in range(20)])
    await claim(bench, limit=4)
    await bench.inbox.accept([job(project="late") for _ in range(3)])

    started = await claim(bench, limit=3)

    assert await projects_of(bench, started) == ["late"] * 3


async def test_beyond_the_shared_slots_only_projects_without_a_run_at_work_begin_one(bench: Bench) -> None:
    await bench.inbox.accept([job(project="busy") for _ in range(5)])
    dead = await claim(bench, limit=1)
    await expire_leases(bench)
    claims = Claims(bench.database)
    found = await claims.claim(owner="one", limit=3, shared=0, lease_seconds=15)
    assert (found.executions, found.seen, found.held_back) == ([], 0, 3)
    await bench.inbox.accept([job(project="late") for _ in range(3)])
    found = await claims.claim(owner="one", limit=3, shared=0, lease_seconds=15)
    assert await projects_of(bench, found.executions) == ["late"]
    found = await claims.claim(owner="one", limit=3, shared=1, lease_seconds=15)
    assert [execution.lease.run_id for execution in found.executions] == [dead[0].lease.run_id]


async def test_within_a_project_the_oldest_run_is_first(bench: Bench) -> None:
    jobs = [job() for _ in range(5)]
    for each in jobs:
        await bench.inbox.accept([each])
    claimed = [(await claim(bench, limit=1))[0].lease.run_id for _ in jobs]
    assert claimed == [each.run_id for each in jobs]


async def projects_of(bench: Bench, claimed: Sequence[Execution]) -> list[str]:
    ids = [execution.lease.run_id for execution in claimed]
    rows = await bench.rows("SELECT project_id FROM executor.executions WHERE run_id = ANY(%(ids)s)", ids=ids)
    return [row.project_id for row in rows]


async def test_two_replicas_never_claim_the_same_run(bench: Bench, other: Bench) -> None:
    await bench.inbox.accept([job(project=f"p{n % 7}") for n in range(60)])
    taken: list[UUID] = []
    while len(taken) < 60:  # one of two claims finds nothing when the other was faster
        claims = await asyncio.gather(*(claim(replica, limit=5) for _ in range(4) for replica in (bench, other)))
        assert any(claims)
        taken += [execution.lease.run_id for claimed in claims for execution in claimed]
    assert len(taken) == len(set(taken))
