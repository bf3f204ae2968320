"""Fail points: places in the code where tests kill or freeze a process, to show that nothing is lost.

`PLAYBOOK_FAIL_POINT=executor.after_claim` kills the process with SIGKILL when it reaches that point,
`executor.after_claim:3` when it reaches it for the third time, `executor.after_claim:3:SIGSTOP` freezes it then, and
`executor.after_claim:1:SIGKILL:shop-1` counts only work for the project shop-1. Without the variable a point is a call
of an empty function.
"""

import itertools
import os
import signal
from collections.abc import Callable
from enum import StrEnum
from typing import Final

from servicekit.telemetry import logs

VARIABLE: Final = "PLAYBOOK_FAIL_POINT"


class FailPoint(StrEnum):
    """All fail points, in the order in which a run passes them."""

    RUNS_AFTER_COMMIT = "runs.after_commit"  # a run is created; neither published nor answered
    RUNS_AFTER_PUBLISH = "runs.after_publish"  # the broker has the job; the row is not marked
    EXECUTOR_AFTER_TAKE = "executor.after_take"  # the message is read, not handled
    EXECUTOR_AFTER_INSERT = "executor.after_insert"  # the job is in the inbox, the claimer not woken
    EXECUTOR_BEFORE_ACK = "executor.before_ack"
    EXECUTOR_AFTER_CLAIM = "executor.after_claim"  # the lease is taken, the work not begun
    EXECUTOR_BEFORE_AI_REQUEST = "executor.before_ai_request"  # the allowance is reserved
    EXECUTOR_AFTER_AI_REPLY = "executor.after_ai_reply"  # paid for, not stored
    EXECUTOR_IN_DRAFT = "executor.in_draft"  # in the last transaction: the draft is written, the outcome is not
    EXECUTOR_BEFORE_COMMIT = "executor.before_commit"  # of a run's effects with its outcome
    EXECUTOR_AFTER_COMMIT = "executor.after_commit"
    EXECUTOR_BEFORE_PUBLISH = "executor.before_publish"  # of an event
    EXECUTOR_AFTER_PUBLISH = "executor.after_publish"  # the broker has the event; the row is not marked
    RUNS_IN_CHANGE = "runs.in_change"  # events are applied, not committed
    RUNS_BEFORE_ACK = "runs.before_ack"  # events are applied and committed; the broker will deliver them again


def _passed(_: FailPoint) -> None:
    """Do nothing."""


def _armed(setting: str) -> Callable[[FailPoint], None]:
    """Return the function that each point calls, for a setting NAME[:COUNT[:SIGNAL[:PROJECT]]]. Raises ValueError for
    an unknown name."""
    name, count, kind, project = (*setting.split(":"), *("", "", ""))[:4]
    chosen, times = FailPoint(name), itertools.count(1)
    last, signal_number = int(count or 1), signal.Signals[kind or "SIGKILL"]

    def fail_at(point: FailPoint) -> None:
        if point is not chosen or (project and logs.bound("project_id") != project):
            return
        if next(times) == last:
            # Unbuffered: a killed process leaves this line behind.
            os.write(2, f"fail point {point} is reached\n".encode())
            os.kill(os.getpid(), signal_number)

    return fail_at


_setting = os.environ.get(VARIABLE)
reached: Final = _armed(_setting) if _setting else _passed
