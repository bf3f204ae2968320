"""Drafts with their items, and what applying one did."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID


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


class DraftItem(NamedTuple):
    """One product's suggestion, before and after the rules."""

    product_id: str
    raw_suggestion: str
    final_suggestion: str
    rule_warnings: tuple[str, ...] = ()
    no_suggestion_reason: str = ""  # a sentence, where final_suggestion is blank


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
