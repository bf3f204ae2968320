"""The pipeline and the leases it works under: what is broken off, what is not, and what an error makes of a run."""

import asyncio
from datetime import timedelta

from executor_service.domain.ai_usage import UsageMeter
from executor_service.domain.execution import Job, Outcome, State, Status
from executor_service.domain.failures import FailedRun
from executor_service.execution.leases import Leases
from executor_service.metrics import ExecutorMetrics
from executor_service.store.claims import Claims
from executor_service.store.jobs import Jobs
from servicekit.background.tasks import running
from servicekit.postgres.database import Connection
from servicekit.telemetry.metrics import Metrics
from tests.support.executor import job
from tests.support.stage import Stage
from tests.support.waiting import eventually


async def start(stage: Stage, run: Job) -> None:
    """Begin a run as if it had just come in. No claimer and no heartbeat interferes."""
    jobs = Jobs(stage.database)
    stage.claimer.start_claimed(await jobs.enqueue_claimed([run], owner=stage.owner, lease_seconds=15))
    await eventually(lambda: stage.staged.begun)


async def over(stage: Stage) -> None:
    await eventually(lambda: not len(stage.leases))


# Leases


async def test_a_lease_is_held_for_as_long_as_it_lasts_and_no_longer(stage: Stage) -> None:
    leases = Leases(stage.database, ExecutorMetrics(Metrics(), slots=4), owner=stage.owner, seconds=1.0)
    (execution,) = await Jobs(stage.database).enqueue_claimed([job()], owner=stage.owner, lease_seconds=15)
    task = asyncio.create_task(stage.staged.perform(execution.lease, job(), UsageMeter()))
    leases.add(execution, task)  # type: ignore[arg-type]
    assert leases.holds(execution.lease)
    await leases.renew()
    await eventually(lambda: not leases.holds(execution.lease), timeout=10)
    assert len(leases) == 1  # its slot is taken until the task is done
    stage.staged.open.set()
    await task


async def test_an_effect_does_not_begin_without_the_lease(stage: Stage) -> None:
    begun: list[Connection] = []

    async def effect(connection: Connection) -> Outcome:
        begun.append(connection)
        return Outcome(Status.SUCCEEDED)

    stage.staged.effect = effect
    await start(stage, job())
    await stage.rows("UPDATE executor.executions SET lease_owner = 'two', attempt = 2")
    stage.staged.open.set()
    await over(stage)
    assert not begun
    assert await stage.attempts() == [("RUNNING", 2, 0)]


async def test_an_effect_whose_run_is_no_longer_there_to_be_ended_is_undone(stage: Stage) -> None:
    async def effect(connection: Connection) -> Outcome:
        await Claims(connection).hand_back(stage.staged.begun[0])
        return Outcome(Status.SUCCEEDED)

    stage.staged.effect = effect
    stage.staged.open.set()
    await start(stage, job())
    await over(stage)
    assert await stage.value("SELECT lease_owner FROM executor.executions") == stage.owner


# Commits


async def test_a_revocation_does_not_break_off_a_commit(stage: Stage) -> None:
    """Broken off, its result would be unknown; the database decides which of the two came first."""
    run = job()

    async def effect(_: Connection) -> Outcome:
        stage.leases.revoke(run.run_id)
        return Outcome(Status.SUCCEEDED)

    stage.staged.effect = effect
    stage.staged.open.set()
    await start(stage, run)
    await over(stage)
    assert await stage.attempts() == [("SUCCEEDED", 1, 0)]


async def test_a_revocation_does_not_keep_a_failure_that_is_being_written_from_being_told(stage: Stage) -> None:
    run = job()
    stage.staged.errors = [FailedRun("PROJECT_NOT_FOUND", "gone")]
    stage.staged.open.set()
    with stage.publisher.subscription(run.run_id) as changes:
        await start(stage, run)
        stage.leases.revoke(run.run_id)  # while its outcome waits for the writer
        async with running(stage.outcomes), asyncio.timeout(5):
            state = await end(changes)
    assert (state.status, state.error_code) == (Status.FAILED, "PROJECT_NOT_FOUND")


async def end(changes: asyncio.Queue[State]) -> State:
    while not (state := await changes.get()).status.is_terminal:
        pass
    return state


# Deadlines


async def test_a_deadline_that_passes_during_the_work_leaves_no_time_for_the_effect(stage: Stage) -> None:
    async def effect(_: Connection) -> Outcome:
        return Outcome(Status.SUCCEEDED)

    stage.staged.effect = effect
    await start(stage, job(deadline=stage.clock.now() + timedelta(hours=1)))
    stage.clock.advance(timedelta(hours=2))
    stage.staged.open.set()
    async with running(stage.outcomes):
        await over(stage)
    assert await stage.value("SELECT error_code FROM executor.executions") == "RUN_DEADLINE_EXCEEDED"


async def test_work_that_raises_a_timeout_of_its_own_has_not_passed_its_deadline(stage: Stage) -> None:
    stage.staged.errors = [TimeoutError()]
    stage.staged.open.set()
    async with running(stage.outcomes):
        await start(stage, job(deadline=stage.clock.now() + timedelta(hours=1)))
        await over(stage)
    assert await stage.value("SELECT error_code FROM executor.executions") == "INTERNAL_ERROR"
