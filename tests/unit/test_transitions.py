import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from playbooks.executor.v1.job_pb2 import RunEvent
from playbooks.runs.v1.run_pb2 import AiUsage, Run, RunProgress

from runs_service import transitions
from tests.support.runs import NOW, TERMINAL, event, new_run

# The diagram of the design, written down a second time.
ALLOWED = {
    (Run.QUEUED, Run.RUNNING),
    (Run.QUEUED, Run.CANCELLED),
    (Run.QUEUED, Run.FAILED),  # past its deadline, while no executor lives
    (Run.RUNNING, Run.RUNNING),
    *((Run.RUNNING, status) for status in TERMINAL),
}
STATUSES = [Run.QUEUED, Run.RUNNING, *TERMINAL]


def run_in(status: Run.Status.ValueType) -> Run:
    run = new_run().run
    run.status = status
    if status != Run.QUEUED:
        run.attempt, run.sequence = 1, 2
    return run


@pytest.mark.parametrize("before", STATUSES, ids=Run.Status.Name)
@pytest.mark.parametrize("after", STATUSES, ids=Run.Status.Name)
def test_the_table_has_exactly_the_arrows_of_the_diagram(
    before: Run.Status.ValueType, after: Run.Status.ValueType
) -> None:
    assert (after in transitions.ALLOWED[before]) == ((before, after) in ALLOWED)


def test_the_last_four_statuses_are_terminal_and_no_others() -> None:
    assert {status for status in STATUSES if transitions.is_terminal(status)} == set(TERMINAL)


@pytest.mark.parametrize("status", TERMINAL, ids=Run.Status.Name)
@pytest.mark.parametrize("reported", STATUSES, ids=Run.Status.Name)
def test_a_terminal_run_never_changes(status: Run.Status.ValueType, reported: Run.Status.ValueType) -> None:
    run = run_in(status)
    assert transitions.changes(run, event(run.id, 9, reported, attempt=2, completed=50), NOW) == []


def test_a_queued_run_becomes_running_with_an_event_that_says_so() -> None:
    run = run_in(Run.QUEUED)
    (after,) = transitions.changes(run, event(run.id, 1, Run.RUNNING, completed=3), NOW)
    assert (after.status, after.attempt, after.sequence) == (Run.RUNNING, 1, 2)
    assert after.progress == RunProgress(completed=3, total=100)
    assert after.HasField("started_at")
    assert not after.HasField("finished_at")


@pytest.mark.parametrize("status", [Run.SUCCEEDED, Run.FAILED, Run.STALE], ids=Run.Status.Name)
def test_an_end_without_a_beginning_implies_the_beginning(status: Run.Status.ValueType) -> None:
    run = run_in(Run.QUEUED)
    running, ended = transitions.changes(run, event(run.id, 5, status, completed=100), NOW)
    assert (running.status, running.sequence) == (Run.RUNNING, 2)
    assert (ended.status, ended.sequence) == (status, 3)
    assert not running.HasField("progress")  # no event said how far it was
    assert ended.progress.completed == 100


def test_a_run_cancelled_before_it_started_was_never_running() -> None:
    run = run_in(Run.QUEUED)
    (ended,) = transitions.changes(run, event(run.id, 2, Run.CANCELLED, attempt=0), NOW)
    assert (ended.status, ended.sequence, ended.attempt) == (Run.CANCELLED, 2, 0)
    assert not ended.HasField("started_at")
    assert ended.HasField("finished_at")


def test_a_run_cancelled_while_it_ran_was_running_first() -> None:
    run = run_in(Run.QUEUED)
    steps = transitions.changes(run, event(run.id, 2, Run.CANCELLED, attempt=1), NOW)
    assert [step.status for step in steps] == [Run.RUNNING, Run.CANCELLED]


def test_progress_is_a_change_and_the_same_progress_again_is_none() -> None:
    run = run_in(Run.RUNNING)
    (after,) = transitions.changes(run, event(run.id, 2, Run.RUNNING, completed=10), NOW)
    assert (after.progress.completed, after.sequence) == (10, run.sequence + 1)
    assert transitions.changes(after, event(run.id, 3, Run.RUNNING, completed=10), NOW) == []


def test_another_attempt_is_a_change_that_keeps_the_first_start() -> None:
    run = run_in(Run.QUEUED)
    (first,) = transitions.changes(run, event(run.id, 1, Run.RUNNING, completed=40), NOW)
    started = first.started_at
    (second,) = transitions.changes(first, event(run.id, 2, Run.RUNNING, attempt=2), NOW.replace(hour=13))
    assert (second.attempt, second.progress.completed) == (2, 0)
    assert second.started_at == started
    assert second.updated_at != first.updated_at


def test_that_an_execution_is_in_the_inbox_changes_nothing() -> None:
    run = run_in(Run.QUEUED)
    assert transitions.changes(run, event(run.id, 1, Run.QUEUED), NOW) == []


@pytest.mark.parametrize("status", [0, 77])
def test_a_status_of_a_newer_version_changes_nothing_and_breaks_nothing(status: int) -> None:
    run = run_in(Run.RUNNING)
    assert transitions.changes(run, event(run.id, 1, status, completed=5), NOW) == []  # type: ignore[arg-type]


def test_a_terminal_event_fills_in_results_and_keeps_the_request() -> None:
    run = run_in(Run.RUNNING)
    run.scope_id = "asked"
    events = event(run.id, 3, Run.SUCCEEDED, ai_used=True, draft_id="d", rules_hash="r")
    events.result.affected_total = 7
    (ended,) = transitions.changes(run, events, NOW)
    assert (ended.scope_id, ended.rules_hash, ended.draft_id, ended.ai_used) == ("asked", "r", "d", True)
    assert ended.result.affected_total == 7


def test_a_change_leaves_the_run_it_was_made_from_alone() -> None:
    run = run_in(Run.QUEUED)
    before = run.SerializeToString(deterministic=True)
    transitions.changes(run, event(run.id, 1, Run.SUCCEEDED), NOW)
    assert run.SerializeToString(deterministic=True) == before


@st.composite
def executions(draw: st.DrawFn) -> list[RunEvent]:
    """The events of an execution: attempts with progress, then an end or none."""
    events: list[tuple[int, int, int]] = [(Run.QUEUED, 0, 0)]
    attempts = draw(st.integers(0, 3))
    for attempt in range(1, attempts + 1):
        events += [
            (Run.RUNNING, attempt, done) for done in [0, *sorted(draw(st.lists(st.integers(1, 99), max_size=4)))]
        ]
    if draw(st.booleans()):
        end = draw(st.sampled_from(TERMINAL)) if attempts else Run.CANCELLED
        events.append((end, attempts, 100))
    return [
        event("run", number, status, attempt=attempt, completed=done)  # type: ignore[arg-type]
        for number, (status, attempt, done) in enumerate(events, start=1)
    ]


@given(executions(), st.randoms(use_true_random=False), st.floats(0, 1))
@settings(max_examples=300, deadline=None)
def test_any_loss_duplication_and_reordering_gives_a_legal_history(
    events: list[RunEvent], chance: random.Random, loss: float
) -> None:
    received = [copy for one in events for copy in [one] * chance.choice([1, 1, 2]) if chance.random() >= loss]
    chance.shuffle(received)
    run = new_run().run
    history, number = [run], 0
    for one in received:  # as RunStore.change does: a number that was passed is ignored
        if one.number > number:
            number = one.number
            history += transitions.changes(history[-1], one, NOW)

    assert [step.sequence for step in history] == list(range(1, len(history) + 1))
    assert all((a.status, b.status) in ALLOWED for a, b in itertools.pairwise(history))
    assert [step.attempt for step in history] == sorted(step.attempt for step in history)
    ends = [step for step in history if step.status in TERMINAL]
    end_was_received = any(one.status in TERMINAL for one in received)
    assert len(ends) == end_was_received
    if ends:
        assert history[-1] is ends[0]


def test_what_a_run_cost_comes_with_its_events_and_never_goes_again() -> None:
    def reported(number: int, status: Run.Status.ValueType, requests: int | None, *, completed: int = 0) -> RunEvent:
        message = event("r", number, status, completed=completed)
        if requests is not None:
            message.ai_usage.CopyFrom(AiUsage(requests=requests, model="m"))
        return message

    run = run_in(Run.QUEUED)
    costs = []
    for step in (
        reported(1, Run.RUNNING, None),
        reported(2, Run.RUNNING, 3, completed=1),
        reported(3, Run.RUNNING, None, completed=2),
        reported(4, Run.FAILED, 5),
    ):
        (run,) = transitions.changes(run, step, NOW)
        costs.append(run.ai_usage.requests if run.HasField("ai_usage") else None)
    assert costs == [None, 3, 3, 5]


def test_a_run_that_nobody_reports_the_end_of_keeps_what_it_cost() -> None:
    run = run_in(Run.RUNNING)
    run.ai_usage.requests = 4
    (after,) = transitions.overdue(run, NOW)
    assert (after.status, after.ai_usage.requests) == (Run.FAILED, 4)
