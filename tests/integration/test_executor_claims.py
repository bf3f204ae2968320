"""The inbox and the leases: each run is taken once, in a fair order, and never written by two."""

import asyncio
import re
from collections.abc import Sequence
from uuid import UUID, uuid4

import psycopg
import pytest
from playbooks.executor.v1.job_pb2 import RunJob, RunJobBatch
from playbooks.runs.v1.run_pb2 import Run

from executor_service.domain.execution import Execution, Job, Lease, LeaseLost, Outcome, Status
from executor_service.execution.pipeline import MAX_CRASHES
from executor_service.models import RUN_TYPES, STATUSES
from executor_service.store.claims import Claims
from executor_service.store.executions import Executions
from executor_service.store.outbox import Outbox
from executor_service.store.outcomes import Outcomes
from servicekit.background.tasks import running
from tests.support.executor import Bench, job
from tests.support.waiting import eventually


async def claim(bench: Bench, limit: int = 10, lease_seconds: float = 15) -> Sequence[Execution]:
    claimed = await Claims(bench.database).claim(owner=bench.owner, limit=limit, lease_seconds=lease_seconds)
    return claimed.executions


async def expire_leases(bench: Bench) -> None:
    await bench.rows(
        "UPDATE executor.executions SET lease_until = now() - interval '1 second' WHERE status = 'RUNNING'"
    )


async def finish(bench: Bench, lease: Lease) -> None:
    (end,) = await Outcomes(bench.database).finish([(lease, Outcome(Status.SUCCEEDED))])
    if isinstance(end, LeaseLost):
        raise end


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


# Leases


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
        async with asyncio.timeout(2):
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


# Events


async def test_every_change_has_the_next_number_and_is_marked_as_published(bench: Bench) -> None:
    await bench.stock(3)
    async with bench.working():
        states = await bench.follow(job())
        numbers = [state.number for state in states]
        assert numbers == sorted(set(numbers))
        await eventually(lambda: outbox_is_empty(bench))
    assert [states[0].status, states[-1].status] == [Status.QUEUED, Status.SUCCEEDED]


async def outbox_is_empty(bench: Bench) -> bool:
    unpublished = "SELECT count(*) FROM executor.executions WHERE published_number < event_number"
    return await bench.value(unpublished) == 0


async def test_marking_published_events_does_not_wait_for_a_run_that_is_being_written(bench: Bench) -> None:
    await bench.inbox.accept([job() for _ in range(50)])
    states = [execution.state for execution in await claim(bench, limit=50)]

    async def marked() -> object:
        await Outbox(bench.database).mark_published(states)
        return await bench.value("SELECT count(*) FROM executor.executions WHERE published_number = 1")

    async with bench.database.transaction() as connection:
        await Claims(connection).lock(Lease(states[0].run_id, 1, "one"))
        assert await marked() == 49
    assert await marked() == 50


async def test_a_run_of_another_replica_can_be_followed(bench: Bench, other: Bench) -> None:
    await bench.stock(1)
    async with other.working():
        state = await bench.execute(job())  # taken in here, executed there
    assert state.status is Status.SUCCEEDED


# SUCCEEDED is written after a run's effects, in the same transaction.
REFUSE_SUCCESS = """
CREATE FUNCTION executor.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'refused'; END $$;
CREATE TRIGGER refuse_success BEFORE UPDATE ON executor.executions
FOR EACH ROW WHEN (new.status = 'SUCCEEDED') EXECUTE FUNCTION executor.refuse()"""


async def test_effects_and_outcome_are_one_transaction(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    await bench.stock(2)
    with psycopg.connect(bench.url) as connection:
        connection.execute(REFUSE_SUCCESS)
    try:
        async with bench.working():
            state = await bench.preview(expect=Status.FAILED)
    finally:
        with psycopg.connect(bench.url) as connection:
            connection.execute("DROP FUNCTION executor.refuse CASCADE")
    assert "refused" in caplog.text
    assert state.draft_id is None
    for effects in ("drafts", "draft_items"):
        assert await bench.value(f"SELECT count(*) FROM executor.{effects}") == 0
    assert state.error_code == "INTERNAL_ERROR"


async def test_the_database_takes_the_statuses_and_types_of_the_contract(bench: Bench) -> None:
    for name, values in (("executions_status", STATUSES), ("executions_run_type", RUN_TYPES)):
        query = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = %(name)s"
        assert set(re.findall("'([A-Z_]+)'", await bench.value(query, name=name))) == set(values)
