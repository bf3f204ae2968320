"""What jobs and events may say, genuine or not: bounded numbers, times and texts, and the run's own project."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from playbooks.executor.v1.job_pb2 import RunEvent, RunEventBatch, RunJob, RunJobBatch
from playbooks.runs.v1.run_pb2 import Run

from executor_service import messages as executor_messages
from executor_service.domain.execution import State, Status
from executor_service.domain.failures import FailedRun
from executor_service.execution import event_publisher
from executor_service.execution.cancellation import Cancellation
from executor_service.execution.outcomes import MAX_MESSAGE, outcome_of
from runs_service import messages
from runs_service.delivery import dispatcher as dispatch
from runs_service.delivery.event_applier import EventApplier
from runs_service.store import Filters, RunStore
from servicekit.broker.link import MAX_BODY
from servicekit.clock import SystemClock
from servicekit.errors import ServiceError
from servicekit.ids import uuid7
from servicekit.postgres.database import Database
from servicekit.rpc.validation import broken_rules
from tests.support.executor import Bench, job
from tests.support.runs import event, large_rules, new_run

WIDE = "\N{GRINNING FACE}"
IMPOSSIBLE = Timestamp(seconds=10**15)
UNSUITABLE = Timestamp(seconds=2**62, nanos=-5)


@pytest.fixture
def store(runs_database: Database) -> RunStore:
    return RunStore(runs_database, reconcile_after=timedelta(seconds=5))


EVENTS: dict[str, dict[str, Any]] = {
    "a number beyond all": {"number": 2**63 - 1},
    "number 0": {"number": 0},
    "an attempt beyond all": {"attempt": 2**31 - 1},
    "a negative attempt": {"attempt": -1},
    "no status": {"status": 0},
    "a status there is not": {"status": 77},
    "an impossible start": {"started_at": IMPOSSIBLE},
    "an unsuitable end": {"finished_at": UNSUITABLE},
    "a long message": {"error_message": "x" * 17_000_000},
    "a long code": {"error_code": "X" * 65},
    "a draft that is no UUID": {"draft_id": "../../x"},
    "no project": {"project_id": ""},
    "a run that is none": {"run_id": "7"},
}


@pytest.mark.parametrize("kind", EVENTS)
async def test_an_event_beyond_the_bounds_changes_nothing_and_stops_nobody(store: RunStore, kind: str) -> None:
    (stored,) = await store.create([new_run()])
    values: dict[str, Any] = {"run_id": stored.run.id, "number": 1, "status": Run.FAILED} | EVENTS[kind]
    bad, good = event(**values), event(stored.run.id, 2, Run.RUNNING)
    applier = EventApplier(store, SystemClock(), announce=lambda _: None)
    dead = await applier.consume([RunEventBatch(events=[bad, good]).SerializeToString()])
    assert [RunEventBatch.FromString(letter.body).events[0] for letter in dead] == [bad]
    assert len(dead[0].reason) < 300
    run = await store.get("p", stored.run.id)
    assert run is not None
    assert (run.status, run.sequence) == (Run.RUNNING, 2)
    (listed,) = await store.page(Filters("p"), limit=10, offset=0, before=None)
    assert listed == run


@pytest.mark.parametrize("remembered", [True, False])
async def test_an_event_of_another_project_is_ignored(
    store: RunStore, runs_database: Database, remembered: bool, caplog: pytest.LogCaptureFixture
) -> None:
    (stored,) = await store.create([new_run()])
    if not remembered:
        store = RunStore(runs_database, reconcile_after=store._reconcile_after)  # that of another replica
    applier = EventApplier(store, SystemClock(), announce=lambda _: None)
    await applier.apply([event(stored.run.id, 1, Run.SUCCEEDED, project_id="q")])
    run = await store.get("p", stored.run.id)
    assert run is not None
    assert (run.status, run.sequence) == (Run.QUEUED, 1)
    assert "names another project" in caplog.text
    await applier.apply([event(stored.run.id, 1, Run.SUCCEEDED)])
    run = await store.get("p", stored.run.id)
    assert run is not None
    assert run.status == Run.SUCCEEDED


async def test_events_that_come_again_change_nothing(store: RunStore) -> None:
    """A replay of a genuine message is a message that is delivered twice."""
    (stored,) = await store.create([new_run()])
    applier = EventApplier(store, SystemClock(), announce=lambda _: None)
    bodies = [
        RunEventBatch(events=[event(stored.run.id, n, status)]).SerializeToString()
        for n, status in ((1, Run.RUNNING), (2, Run.SUCCEEDED))
    ]
    for _ in range(2):
        await applier.consume(bodies)
    await applier.consume([bodies[0]])
    run = await store.get("p", stored.run.id)
    assert run is not None
    assert (run.status, run.sequence) == (Run.SUCCEEDED, 3)


JOBS: dict[str, dict[str, Any]] = {
    "an impossible creation": {"created_at": IMPOSSIBLE},
    "an unsuitable deadline": {"deadline": UNSUITABLE},
    "a creation before there were runs": {"created_at": Timestamp(seconds=1)},
    "a long user": {"created_by_user_id": "u" * 256},
    "a long request": {"request_id": "r" * 129},
    "a long playbook": {"playbook_id": "x" * 100},
    "no project": {"project_id": ""},
}


@pytest.mark.parametrize("kind", JOBS)
async def test_a_job_beyond_the_bounds_is_refused_alone(bench: Bench, kind: str) -> None:
    good = job()
    values: dict[str, Any] = {"project_id": "p", "playbook_id": "missing_seo_title", "run_type": Run.APPLY}
    bad = RunJob(**{"run_id": str(uuid4()), **values, **JOBS[kind]})
    batch = RunJobBatch(jobs=[bad, RunJob.FromString(good.body)]).SerializeToString()
    (letter,) = await bench.inbox.consume([batch])
    assert RunJobBatch.FromString(letter.body).jobs[0] == bad
    assert await bench.value("SELECT run_id FROM executor.executions") == good.run_id


async def test_a_run_id_of_another_project_mixes_no_runs(bench: Bench) -> None:
    """Whoever names a run of another project cancels nothing and is shown nothing."""
    theirs = job(project="theirs")
    mine = job(project="mine")._replace(run_id=theirs.run_id)
    await bench.inbox.accept([theirs])
    await bench.inbox.accept([mine])
    assert await bench.value("SELECT project_id FROM executor.executions") == "theirs"
    cancellation = Cancellation(bench.database, bench.leases, bench.publisher)
    with pytest.raises(ServiceError) as caught:
        await cancellation.cancel([mine])
    assert caught.value.reason == "VALIDATION_FAILED"
    assert await bench.value("SELECT status FROM executor.executions") == "QUEUED"
    (state,) = await cancellation.cancel([theirs])
    assert (state.status, state.project_id) == (Status.CANCELLED, "theirs")


# What we send stays below what we take


def test_the_largest_batch_of_events_fits_into_a_message() -> None:
    state = State(
        run_id=uuid4(),
        project_id=WIDE * 200,
        number=10**9,
        status=Status.FAILED,
        attempt=10**6,
        completed=2**40,
        total=2**40,
        ai_used=True,
        draft_id=uuid4(),
        scope_id="x" * 64,
        rules_hash="x" * 64,
        result=dict.fromkeys(("affected_total", "draft_generated", "no_suggestion_count", "updated"), 2**40),
        error_code="X" * 64,
        error_message=WIDE * MAX_MESSAGE,
        started_at=datetime.now(UTC),
        finished_at=datetime.now(UTC),
    )
    batch = RunEventBatch(events=[executor_messages.event(state)] * event_publisher.BATCH)
    assert batch.ByteSize() < MAX_BODY


def test_the_largest_batch_of_jobs_fits_into_a_message() -> None:
    for rules in (None, large_rules()):
        new = new_run(meta={"rules": rules, "sample_size": 3}) if rules else new_run(project_id=WIDE * 200)
        made = messages.job(new.run, "r" * 128)
        assert made.ByteSize() * (dispatch.BATCH // messages.weight(new.run)) < MAX_BODY


def test_texts_of_failures_are_cut_to_what_an_event_takes() -> None:
    outcome = outcome_of(FailedRun("PROJECT_NOT_FOUND", "x" * 20_000), request_id="r")
    assert len(outcome.error_message) == MAX_MESSAGE
    told = RunEvent(run_id=uuid7(), project_id="p", number=1, status=Run.FAILED, error_message=outcome.error_message)
    assert broken_rules(told) == []
