"""A run as the executor has it: the job that came in, its lease, its state, its outcome.

Every run makes several of these: named tuples are made in half the time that dataclasses take.
"""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from executor_service.domain.ai_usage import AIUsage
from executor_service.playbooks.playbook import Playbook
from executor_service.playbooks.rules import Rules

MAX_ERROR_MESSAGE = 1_000  # characters of what a run ends with, as in RunEvent; 500 events go into one message


class RunType(StrEnum):
    """What a run does."""

    PREVIEW_GENERATE = "PREVIEW_GENERATE"
    DRAFT_GENERATE = "DRAFT_GENERATE"
    APPLY = "APPLY"


class Status(StrEnum):
    """Where an execution stands. The allowed ways are drawn in run.proto."""

    QUEUED = "QUEUED"  # -> RUNNING
    RUNNING = "RUNNING"  # -> RUNNING (next attempt), or one of the following
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    STALE = "STALE"
    CANCELLED = "CANCELLED"

    @property
    def is_terminal(self) -> bool:
        """Whether it never changes any more."""
        return self is not Status.QUEUED and self is not Status.RUNNING


class Job(NamedTuple):
    """A run to execute, as it came."""

    run_id: UUID
    project_id: str
    playbook: Playbook
    run_type: RunType
    scope_id: str
    rules_hash: str
    sample_size: int
    rules: Rules | None  # None: not stated
    request_id: str
    created_at: datetime
    deadline: datetime | None  # None: an older runs_service did not state one
    body: bytes  # the RunJob this was read from
    economy: bool = False  # suggestions may come late, for less money
    traceparent: str = ""  # of the call that created the run


class Lease(NamedTuple):
    """The right to work on an execution. Every write of the work is refused once another attempt has it."""

    run_id: UUID
    attempt: int
    owner: str


class LeaseLost(Exception):
    """Another attempt owns this execution, or it has ended: stop working on it and write nothing more."""


class State(NamedTuple):
    """An execution after its change number `number`: what runs_service learns of it."""

    run_id: UUID
    project_id: str
    number: int
    status: Status
    attempt: int
    completed: int
    total: int
    ai_used: bool
    draft_id: UUID | None
    scope_id: str
    rules_hash: str
    result: Mapping[str, int] | None
    error_code: str
    error_message: str
    started_at: datetime | None
    finished_at: datetime | None
    ai_usage: AIUsage | None = None
    traceparent: str = ""  # of the attempt that made the change, where it is recorded; the row does not keep it


class Execution(NamedTuple):
    """An execution that was claimed."""

    job_body: bytes
    lease: Lease
    crashes: int  # earlier attempts whose executor died
    state: State


class Outcome(NamedTuple):
    """How an execution ends."""

    status: Status
    draft_id: UUID | None = None
    scope_id: str = ""
    rules_hash: str = ""
    result: Mapping[str, int] | None = None
    total: int | None = None  # products the work was about, all of them done; None: progress stays where it was
    error_code: str = ""
    error_message: str = ""
    started: bool = True  # False: the attempt was claimed to be ended, and does not count
    ai_usage: AIUsage | None = None  # None: as stored
