"""What the stores take and return: frozen records, without behaviour.

Those that every run makes several of, or one a product, are named tuples, which are made in half the time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID

from executor_service.playbooks.playbook import Playbook
from executor_service.playbooks.rules import Rules

MAX_ERROR_MESSAGE = 1_000  # characters of what a run ends with, as in RunEvent; 500 events go into one broker message


class Plan(StrEnum):
    """What a project pays for."""

    FREE = "FREE"
    PRO = "PRO"
    BUSINESS = "BUSINESS"


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


class DraftStatus(StrEnum):
    """What a draft is good for."""

    PARTIAL = "PARTIAL"
    READY = "READY"
    FAILED = "FAILED"
    EXPIRED = "EXPIRED"


class ItemStatus(StrEnum):
    """What an APPLY did with a product."""

    UPDATED = "UPDATED"
    SKIPPED = "SKIPPED"
    FAILED = "FAILED"


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


class Lease(NamedTuple):
    """The right to work on an execution. Every write of the work is refused once another attempt has it."""

    run_id: UUID
    attempt: int
    owner: str


class LeaseLost(Exception):
    """Somebody else owns this execution now, or it has ended: stop working on it and write nothing more."""


class State(NamedTuple):
    """An execution after its change number `number`, as runs_service is told."""

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


class Execution(NamedTuple):
    """An execution that was claimed."""

    job_body: bytes
    lease: Lease
    crashes: int  # earlier attempts that ended without a word
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


@dataclass(frozen=True, slots=True)
class Project:
    """A project with what it may ask of the AI."""

    id: str
    plan: Plan
    ai_daily_limit: int | None  # overrides the plan's


@dataclass(frozen=True, slots=True)
class Product:
    """A product; texts are empty rather than missing."""

    id: str
    external_id: str
    title: str
    description: str
    seo_title: str
    seo_description: str


class Scope(NamedTuple):
    """The set of products a playbook would work on."""

    id: str
    products: int


class Wanted(NamedTuple):
    """A product that needs a suggestion, with the one that was paid for before, if any."""

    product_id: str
    fingerprint: bytes
    stored: str | None
    title: str  # empty when there is a stored suggestion, like the description
    description: str


class Suggested(NamedTuple):
    """A usable suggestion that arrived."""

    fingerprint: bytes
    text: str


class DraftItem(NamedTuple):
    """One product's suggestion, before and after the rules."""

    product_id: str
    raw_suggestion: str
    final_suggestion: str
    rule_warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DraftKey:
    """What a draft is unique by."""

    project_id: str
    playbook_id: str
    scope_id: str
    rules_hash: str


@dataclass(frozen=True, slots=True)
class Draft:
    """A draft without its items. `status` is as written; whether it has expired is for the clock to say."""

    id: UUID
    key: DraftKey
    rules: Mapping[str, Any]  # normalized
    run_id: UUID  # the run that wrote it last; each writes it once
    status: DraftStatus
    affected_total: int
    draft_generated: int
    no_suggestion_count: int
    model: str
    created_at: datetime
    updated_at: datetime
    expires_at: datetime

    def status_at(self, now: datetime) -> DraftStatus:
        """Return the status as it is at `now`."""
        return DraftStatus.EXPIRED if now >= self.expires_at else self.status


@dataclass(frozen=True, slots=True)
class DraftPage:
    """A draft with some of its items, by product id, and the token of those after them; empty on the last page."""

    draft: Draft
    items: Sequence[DraftItem]
    next_token: str


@dataclass(frozen=True, slots=True)
class RunItem:
    """What an APPLY did with one product."""

    product_id: str
    status: ItemStatus
    message: str
