"""Jobs and events that break a rule, signed or not: they change nothing, and the others are applied."""

import logging
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from google.protobuf.json_format import MessageToJson
from google.protobuf.timestamp_pb2 import Timestamp
from playbooks.executor.v1.job_pb2 import RunEvent, RunEventBatch, RunJob, RunJobBatch
from playbooks.runs.v1.run_pb2 import Run, RunMeta, RunProgress, RunResult

from executor_service import messages as executor_messages
from executor_service.ai.errors import AIError
from executor_service.domain.ai_usage import AIUsage
from executor_service.domain.execution import MAX_ERROR_MESSAGE, State, Status
from executor_service.execution import event_publisher
from executor_service.execution.cancellation import Cancellation
from executor_service.execution.outcomes import outcome_of
from executor_service.store.executions import Executions
from executor_service.store.jobs import Jobs
from runs_service import messages as runs_messages
from runs_service.delivery import dispatcher as dispatch
from runs_service.delivery.event_applier import EventApplier
from runs_service.store import Filters, RunStore
from servicekit.broker.batches import ALONE
from servicekit.broker.wrapping import MAX_BODY
from servicekit.clock import SystemClock
from servicekit.errors import ServiceError
from servicekit.postgres.database import Database
from servicekit.rpc.validation import max_items
from tests.support.executor import Bench, job
from tests.support.runs import NOW, event, large_rules, new_run

WIDE = "\N{GRINNING FACE}"
IMPOSSIBLE = {
    "far ahead": Timestamp(seconds=2**63 - 1),
    "far back": Timestamp(seconds=-(2**63)),
    "of the epoch": Timestamp(),
    "after the last year": Timestamp(seconds=253_402_300_800),
    "with too many nanos": Timestamp(seconds=1_800_000_000, nanos=2**31 - 1),
    "with negative nanos": Timestamp(seconds=1_800_000_000, nanos=-1),
}
BAD_EVENTS: dict[str, dict[str, Any]] = {
    **{f"starts {name}": {"started_at": time} for name, time in IMPOSSIBLE.items()},
    **{f"ends {name}": {"finished_at": time} for name, time in IMPOSSIBLE.items()},
    "the largest number": {"number": 2**63 - 1},
    "the number 0": {"number": 0},
    "a negative number": {"number": -1},
    "no status": {"status": 0},
    "an unknown status": {"status": 77},
    "a negative attempt": {"attempt": -1},
    "the largest attempt": {"attempt": 2**31 - 1},
    "negative progress": {"progress": RunProgress(completed=-1)},
    "the largest progress": {"progress": RunProgress(total=2**63 - 1)},
    "a negative result": {"result": RunResult(updated=-1)},
    "no project": {"project_id": ""},
    "another project": {"project_id": "another"},
    "a long project": {"project_id": "p" * 201},
    "an id that is none": {"run_id": "7"},
    "a draft that is none": {"draft_id": "7"},
    "a message of 17 MB": {"error_message": "x" * 17_000_000},
    "a long message": {"error_message": "x" * (MAX_ERROR_MESSAGE + 1)},
    "NUL in its message": {"error_message": "a\0b"},
    "a code that is none": {"error_code": "\x1b]52;c;"},
    "a long code": {"error_code": "X" * 65},
    "a long scope": {"scope_id": "x" * 65},
}


class Desk:
    """A run, and what becomes of it."""

    def __init__(self, store: RunStore, run: Run) -> None:
        self.store = store
        self.run = run
        self.announced: list[Run] = []
        self.applier = EventApplier(store, SystemClock(), announce=self.announced.extend)

    async def now(self) -> Run:
        found = await self.store.runs.get("p", self.run.id)
        assert found is not None
        return found


@pytest.fixture
async def desk(runs_database: Database) -> Desk:
    store = RunStore(runs_database, reconcile_after=timedelta(hours=1))
    return Desk(store, (await store.runs.create([new_run()]))[0].run)


def body(*events: RunEvent) -> bytes:
    return RunEventBatch(events=events).SerializeToString()


def changed(whole: RunEvent, fields: dict[str, Any]) -> RunEvent:
    for name in fields:
        whole.ClearField(name)  # type: ignore[arg-type]
    whole.MergeFrom(RunEvent(**fields))
    return whole


# Events


@pytest.mark.parametrize("over", ["the broker", "gRPC"])
@pytest.mark.parametrize("kind", BAD_EVENTS)
async def test_an_event_that_breaks_a_rule_changes_nothing(desk: Desk, kind: str, over: str) -> None:
    bad = changed(event(desk.run.id, 1, Run.FAILED, error_code="FORGED"), BAD_EVENTS[kind])
    if over == "gRPC":
        await desk.applier.apply([bad])
    else:
        (letter,) = await desk.applier.consume([body(bad)])
        assert letter.body == body(bad)
        assert len(letter.reason) < 1_000
    assert await desk.now() == desk.run
    await desk.applier.consume([body(event(desk.run.id, 1, Run.RUNNING))])
    assert (await desk.now()).status == Run.RUNNING
    for run in await desk.store.runs.page(Filters("p"), limit=10, offset=0, before=None):
        assert MessageToJson(run)


async def test_that_an_execution_waits_for_a_slot_is_no_event_and_nothing_to_complain_of(
    bench: Bench, desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    """With a queue at the executor, every reconciliation brings hundreds of such answers."""
    waiting = job()._replace(run_id=UUID(desk.run.id))
    await Jobs(bench.database).enqueue([waiting])
    (state,) = await Executions(bench.database).states([waiting.run_id])
    assert await desk.applier.apply([executor_messages.event(state)]) == 0
    assert await desk.now() == desk.run
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_only_the_bad_events_of_a_batch_become_dead_letters_and_few_of_them(desk: Desk) -> None:
    bad = [event(desk.run.id, 1, Run.FAILED, scope_id="x" * (65 + n)) for n in range(400)]
    good = event(desk.run.id, 1, Run.RUNNING)
    dead = await desk.applier.consume([body(*bad[:200], good, *bad[200:])])
    assert [letter.body for letter in dead[:ALONE]] == [body(one) for one in bad[:ALONE]]
    assert dead[ALONE].body == body(*bad[ALONE:])
    assert len(dead) == ALONE + 1
    assert [run.status for run in desk.announced] == [Run.RUNNING]


@pytest.mark.parametrize("count", [0, 501, 2_000_000])
async def test_a_batch_of_too_many_is_not_looked_through(desk: Desk, count: int) -> None:
    empty = b"\x0a\x00"  # an event without any field
    (letter,) = await desk.applier.consume([count * empty])
    assert letter.reason == f"it has {count} events; 1 to 500 are allowed"


async def test_a_field_of_tomorrow_is_passed_over(desk: Desk) -> None:
    """What cannot be read without it is of another version."""
    unknown = b"\xfa\x7f\x01x"  # field 2047
    item = event(desk.run.id, 1, Run.RUNNING).SerializeToString() + unknown
    assert await desk.applier.consume([b"\x0a" + bytes([len(item)]) + item]) == []
    assert (await desk.now()).status == Run.RUNNING


@pytest.mark.parametrize("known", [True, False], ids=["as this process wrote it", "read first"])
async def test_no_number_keeps_a_run_from_its_end(desk: Desk, known: bool, runs_database: Database) -> None:
    """The largest number that is let through silences what an execution says on its way, and not how it ended."""
    await desk.applier.consume([body(event(desk.run.id, 10**9, Run.RUNNING))])
    if not known:
        desk = Desk(RunStore(runs_database, reconcile_after=timedelta(hours=1)), desk.run)
    await desk.applier.consume([body(event(desk.run.id, 2, Run.RUNNING, completed=9))])
    assert desk.announced[-1:] != [Run.SUCCEEDED]
    end = event(desk.run.id, 3, Run.SUCCEEDED, completed=100)
    await desk.applier.consume([body(end)])
    ended = await desk.now()
    assert (ended.status, ended.progress.completed) == (Run.SUCCEEDED, 100)
    await desk.applier.consume([body(end), body(event(desk.run.id, 10**9, Run.FAILED))])
    assert await desk.now() == ended


@pytest.mark.parametrize("known", [True, False], ids=["as this process wrote it", "read first"])
async def test_an_event_of_another_project_is_reported(
    desk: Desk, known: bool, runs_database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    if not known:
        desk = Desk(RunStore(runs_database, reconcile_after=timedelta(hours=1)), desk.run)
    foreign, good = event(desk.run.id, 1, Run.SUCCEEDED, project_id="q"), event(desk.run.id, 1, Run.RUNNING)
    await desk.applier.apply([foreign])
    assert "names another project" in caplog.text
    (letter,) = await desk.applier.consume([body(foreign, good)])
    assert letter.body == body(foreign)
    assert [run.status for run in desk.announced] == [Run.RUNNING]


async def test_an_event_sent_again_changes_nothing(desk: Desk) -> None:
    events = [event(desk.run.id, 1, Run.RUNNING), event(desk.run.id, 2, Run.RUNNING, completed=9)]
    await desk.applier.consume([body(*events)])
    before = await desk.now()
    for one in (*events, *events):
        assert await desk.applier.consume([body(one)]) == []
    assert await desk.now() == before


# Jobs


BAD_JOBS: dict[str, dict[str, Any]] = {
    **{f"made {name}": {"created_at": time} for name, time in IMPOSSIBLE.items() if "nanos" not in name},
    **{f"due {name}": {"deadline": time} for name, time in IMPOSSIBLE.items() if "nanos" not in name},
    "an id that is none": {"run_id": "7"},
    "an unknown playbook": {"playbook_id": "nonsense"},
    "an unknown type": {"run_type": 77},
    "a long playbook": {"playbook_id": "x" * 65},
    "no project": {"project_id": ""},
    "a long user": {"created_by_user_id": "x" * 256},
    "a long request id": {"request_id": "x" * 129},
    "NUL in the user": {"created_by_user_id": "a\0b"},
    "a huge sample": {"meta": RunMeta(sample_size=1_000_000)},
    "a deadline of years": {"meta": RunMeta(deadline_seconds=2**31 - 1)},
}


@pytest.mark.parametrize("kind", BAD_JOBS)
async def test_a_job_that_breaks_a_rule_is_not_stored(bench: Bench, kind: str) -> None:
    good, bad = (RunJob.FromString(job().body) for _ in range(2))
    for name in BAD_JOBS[kind]:
        bad.ClearField(name)  # type: ignore[arg-type]
    bad.MergeFrom(RunJob(**BAD_JOBS[kind]))
    (letter,) = await bench.inbox.consume([RunJobBatch(jobs=[bad, good]).SerializeToString()])
    assert letter.body == RunJobBatch(jobs=[bad]).SerializeToString()
    assert [str(row.run_id) for row in await bench.rows("SELECT run_id FROM executor.executions")] == [good.run_id]


async def test_nul_in_the_rules_of_a_job_is_refused(bench: Bench) -> None:
    bad = RunJob.FromString(job().body)
    for field in ("prefix", "suffix"):
        setattr(bad.meta.rules, field, "a\0b")
        (letter,) = await bench.inbox.consume([RunJobBatch(jobs=[bad]).SerializeToString()])
        assert "NUL" in letter.reason
        bad.meta.rules.Clear()
    bad.meta.rules.forbidden_phrases.append("\0")
    assert len(await bench.inbox.consume([RunJobBatch(jobs=[bad]).SerializeToString()])) == 1


async def test_a_job_of_another_project_is_refused_and_the_first_one_stays(bench: Bench) -> None:
    first = job()
    other = first._replace(project_id="another", body=_with_project(first.body, "another"))
    new = job()
    await bench.inbox.accept([first])
    before = await bench.rows("SELECT * FROM executor.executions")
    (letter,) = await bench.inbox.consume([RunJobBatch(jobs=[RunJob.FromString(other.body)]).SerializeToString()])
    assert letter.body == RunJobBatch(jobs=[RunJob.FromString(other.body)]).SerializeToString()
    assert str(first.run_id) in letter.reason
    cancellation = Cancellation(bench.database, bench.leases, bench.publisher)
    with pytest.raises(ServiceError) as refused:
        await cancellation.cancel([new, other])
    assert [violation.field for violation in refused.value.violations] == ["jobs[1].run_id"]
    assert await bench.rows("SELECT * FROM executor.executions") == before
    (state,) = await cancellation.cancel([first])
    assert (state.status, state.project_id) == (Status.CANCELLED, "p")


async def test_two_jobs_of_one_run_in_one_message_make_one_execution(bench: Bench) -> None:
    first = job()
    other = _with_project(first.body, "another")
    both = RunJobBatch(jobs=[RunJob.FromString(first.body), RunJob.FromString(other)]).SerializeToString()
    (letter,) = await bench.inbox.consume([both])
    (row,) = await bench.rows("SELECT project_id FROM executor.executions")
    (refused,) = RunJobBatch.FromString(letter.body).jobs
    assert {row.project_id, refused.project_id} == {"p", "another"}


async def test_a_job_sent_again_changes_nothing(bench: Bench) -> None:
    await bench.stock(2)
    async with bench.working():
        state = await bench.preview()
        before = await bench.rows("SELECT * FROM executor.executions")
        sent = (await bench.rows("SELECT job FROM executor.executions"))[0].job
        for _ in range(3):
            assert await bench.inbox.consume([RunJobBatch(jobs=[RunJob.FromString(sent)]).SerializeToString()]) == []
        assert await Executions(bench.database).states([state.run_id]) == [state]
    assert len(await bench.rows("SELECT 1 FROM executor.executions")) == len(before) == 1


def _with_project(job_body: bytes, project_id: str) -> bytes:
    message = RunJob.FromString(job_body)
    message.project_id = project_id
    return message.SerializeToString()


# What we send ourselves


def _largest_state(message: str) -> State:
    return State(
        run_id=uuid4(),
        project_id=WIDE * 200,
        number=10**9,
        status=Status.FAILED,
        attempt=10**6,
        completed=10**9,
        total=10**9,
        ai_used=True,
        draft_id=uuid4(),
        scope_id="f" * 16,
        rules_hash="f" * 16,
        result={field.name: 10**9 for field in RunResult.DESCRIPTOR.fields},
        error_code="X" * 64,
        error_message=message,
        started_at=NOW,
        finished_at=NOW,
        ai_usage=AIUsage(*[10**9] * 3, *[10**12] * 3, model=WIDE * 200),
    )


async def test_the_largest_batch_of_events_keeps_every_rule(desk: Desk) -> None:
    largest = [executor_messages.event(_largest_state(WIDE * 100_000)) for _ in range(event_publisher.BATCH)]
    sent = body(*largest)
    assert 2_000_000 < len(sent) <= MAX_BODY
    assert await desk.applier.consume([sent]) == []


async def test_the_largest_batch_of_jobs_keeps_every_rule(bench: Bench) -> None:
    for meta, at_least in ((RunMeta(), 800_000), (RunMeta(rules=large_rules()), 3_000_000)):
        (largest,) = (new_run(meta=meta, project_id=WIDE * 200, idempotency_key="k").run for _ in range(1))
        largest.created_by_user_id = WIDE * 255
        jobs = []
        for _ in range(dispatch.BATCH // runs_messages.weight(largest)):
            largest.id = str(uuid4())
            jobs.append(runs_messages.job(largest, "r" * 128))
        sent = RunJobBatch(jobs=jobs).SerializeToString()
        assert at_least < len(sent) <= MAX_BODY
        assert await bench.inbox.consume([sent]) == []


def test_both_sides_agree_about_the_items_of_a_message() -> None:
    assert dispatch.BATCH == max_items(RunJobBatch.DESCRIPTOR.fields[0]) == 500
    assert event_publisher.BATCH == max_items(RunEventBatch.DESCRIPTOR.fields[0]) == 500


@pytest.mark.parametrize("words", ["x" * 100_000, WIDE * 100_000])
def test_what_a_provider_says_is_cut_before_it_is_stored(words: str) -> None:
    outcome = outcome_of(AIError("AI_PROVIDER_ERROR", words, "Wait."), request_id="r")
    assert outcome.error_message == words[:MAX_ERROR_MESSAGE]
