"""A run's life: which status may follow which, and what an event of its execution makes of a run."""

from collections.abc import Mapping
from datetime import datetime

from playbooks.executor.v1.job_pb2 import RunEvent
from playbooks.runs.v1.run_pb2 import Run

ALLOWED: Mapping[int, frozenset[int]] = {
    # FAILED: its deadline passed and no executor had started it.
    Run.QUEUED: frozenset({Run.RUNNING, Run.CANCELLED, Run.FAILED}),
    # RUNNING again: another attempt, or progress.
    Run.RUNNING: frozenset({Run.RUNNING, Run.SUCCEEDED, Run.FAILED, Run.STALE, Run.CANCELLED}),
    Run.SUCCEEDED: frozenset(),
    Run.FAILED: frozenset(),
    Run.STALE: frozenset(),
    Run.CANCELLED: frozenset(),
}
ACTIVE = (Run.QUEUED, Run.RUNNING)


class TransitionNotAllowed(Exception):
    """The run's status does not let it change this way."""


def is_terminal(status: int) -> bool:
    """Return whether a run with this status never changes again."""
    return not ALLOWED[status]


def changes(run: Run, event: RunEvent, now: datetime) -> list[Run]:
    """Return the run after each change that `event` implies, in order; nothing when it is not news.

    An event is the whole state of an execution. When the ones before it were lost, it implies them: a run
    whose event says SUCCEEDED while it is QUEUED has been RUNNING in between, and its watchers get that change too.
    """
    if is_terminal(run.status) or event.status not in ALLOWED or event.status == Run.QUEUED:
        return []
    steps: list[Run] = []
    never_started = event.status in (Run.CANCELLED, Run.FAILED) and event.attempt == 0
    if (run.status == Run.QUEUED and not never_started) or event.attempt > run.attempt:
        run = _running(run, event, now)
        steps.append(run)
    if is_terminal(event.status):
        steps.append(_ended(run, event, now))
    elif not steps and run.progress != event.progress:
        steps.append(_progressed(run, event, now))
    return steps


def cancelled(run: Run, now: datetime) -> list[Run]:
    """Return the run after it was cancelled in the queue; nothing when it has left the queue."""
    if run.status != Run.QUEUED:
        return []
    return changes(run, RunEvent(run_id=run.id, status=Run.CANCELLED), now)


def overdue(run: Run, now: datetime) -> list[Run]:
    """Return the run after its deadline passed without a report from an executor; nothing when it has ended."""
    seconds = run.meta.deadline_seconds
    failure = RunEvent(
        run_id=run.id,
        status=Run.FAILED,
        attempt=run.attempt,
        progress=run.progress,
        error_code="RUN_DEADLINE_EXCEEDED",
        error_message=(
            f"The run did not end within its deadline of {seconds} seconds, and no executor was there to say why. "
            "Nothing more is written. Retry it when executors are up, with a longer meta.deadline_seconds if it "
            "needs one."
        ),
    )
    return changes(run, failure, now)


def _next(run: Run, status: int, now: datetime) -> Run:
    if status not in ALLOWED[run.status]:
        raise TransitionNotAllowed(f"{Run.Status.Name(run.status)} to {Run.Status.Name(status)}")  # type: ignore[arg-type]
    after = Run()
    after.CopyFrom(run)
    after.status = status  # type: ignore[assignment]
    after.sequence += 1
    after.updated_at.FromDatetime(now)
    return after


def _running(run: Run, event: RunEvent, now: datetime) -> Run:
    after = _next(run, Run.RUNNING, now)
    after.attempt = event.attempt
    if not is_terminal(event.status):
        _take_progress(after, event)
    else:
        after.ClearField("progress")
    if not after.HasField("started_at"):
        after.started_at.CopyFrom(event.started_at if event.HasField("started_at") else after.updated_at)
    return after


def _progressed(run: Run, event: RunEvent, now: datetime) -> Run:
    after = _next(run, Run.RUNNING, now)
    _take_progress(after, event)
    return after


def _ended(run: Run, event: RunEvent, now: datetime) -> Run:
    after = _next(run, event.status, now)
    _take_progress(after, event)
    after.ai_used = event.ai_used
    after.draft_id = event.draft_id
    after.scope_id = event.scope_id or run.scope_id
    after.rules_hash = event.rules_hash or run.rules_hash
    if event.HasField("result"):
        after.result.CopyFrom(event.result)
    after.error_code = event.error_code
    after.error_message = event.error_message
    after.finished_at.CopyFrom(event.finished_at if event.HasField("finished_at") else after.updated_at)
    return after


def _take_progress(after: Run, event: RunEvent) -> None:
    """Take over how far the execution is, and what it has asked for. What is paid for stays, if an event is silent."""
    after.progress.CopyFrom(event.progress)
    if event.HasField("ai_usage"):
        after.ai_usage.CopyFrom(event.ai_usage)
