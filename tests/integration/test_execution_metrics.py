"""Executions as they are counted: attempts, lost leases, suggestions, refusals; and what the reconciler mends."""

from executor_service.domain.execution import Status
from servicekit.background.tasks import running
from tests.support.executor import Bench, job
from tests.support.stage import Stage
from tests.support.waiting import eventually


def value(bench: Bench, name: str, **labels: str) -> float | None:
    return bench.metrics.registry.get_sample_value(f"playbook_runs_{name}", labels)


async def test_an_attempt_that_loses_its_lease_is_counted_and_so_is_the_one_after_it(stage: Stage) -> None:
    async with stage.working():
        await stage.inbox.accept([job()])
        await eventually(lambda: stage.staged.begun)
        assert (value(stage, "attempts_total", kind="first"), value(stage, "executing")) == (1, 1)
        await stage.rows(
            "UPDATE executor.executions SET lease_owner = 'another', lease_until = now() - interval '1 second'"
        )
        stage.staged.open.set()
        await eventually(stage.all_succeeded)
        await eventually(lambda: value(stage, "executing") == 0)
    assert value(stage, "leases_lost_total") == 1
    assert value(stage, "attempts_total", kind="later") == 1


async def test_work_that_is_stopped_because_its_run_was_ended_elsewhere_is_a_lost_lease(stage: Stage) -> None:
    async with running(stage.outcomes, stage.claimer):
        await stage.inbox.accept([job()])
        await eventually(lambda: stage.staged.begun)
        await stage.rows("UPDATE executor.executions SET status = 'CANCELLED'")
        await stage.leases.renew()
        assert value(stage, "leases_lost_total") == 1
        await eventually(lambda: value(stage, "executing") == 0)


async def test_suggestions_count_once_as_made_and_then_as_reused_and_a_refusal_makes_none(bench: Bench) -> None:
    await bench.stock(4, limit=5)
    async with bench.working():
        await bench.preview(sample=2)
        await bench.preview(sample=3)
        made, reused = (value(bench, "suggestions_total", source=source) for source in ("provider", "stored"))
        assert (made, reused) == (3, 2)
        await bench.put("another", title="Another")
        for n in range(3):
            await bench.put(f"a{n}", title=f"More {n}")
        await bench.preview(sample=10, expect=Status.FAILED)
    assert value(bench, "quota_refusals_total") == 1
    assert value(bench, "suggestions_total", source="provider") == 3
