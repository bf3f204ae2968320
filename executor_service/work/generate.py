"""PREVIEW_GENERATE and DRAFT_GENERATE: suggestions for affected products, kept as a draft."""

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import uuid4

from executor_service.ai.provider import Answers, SuggestionProvider
from executor_service.ai.text import without_controls
from executor_service.domain.ai_usage import UsageMeter
from executor_service.domain.catalog import Project
from executor_service.domain.draft import Draft, DraftItem, DraftKey, DraftStatus
from executor_service.domain.execution import Job, Lease, Outcome, RunType, Status
from executor_service.domain.paging import MAX_LIMIT
from executor_service.domain.suggestion import SuggestionCandidate
from executor_service.execution.types import Effect
from executor_service.playbooks.playbook import Playbook
from executor_service.playbooks.rules import Rules, apply, rules_hash
from executor_service.store.drafts import Drafts
from executor_service.store.projects import Projects
from executor_service.store.suggestions import Suggestions
from executor_service.work import preconditions as checks
from executor_service.work.suggestion_fetcher import EMPTY_TEXT, SuggestionFetcher
from servicekit.background.breathing import breathing
from servicekit.blanks import is_blank
from servicekit.clock import Clock
from servicekit.failpoints import FailPoint, reached
from servicekit.postgres.database import Connection, Database

logger = logging.getLogger(__name__)

DRAFT_LIFETIME = timedelta(days=7)  # from the last write
NOTHING_LEFT = "The rules left nothing of the suggestion for this product."
LOGGED_IDS = 10  # of the products without a suggestion, for each reason


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a run will do; its preconditions were met."""

    project: Project
    scope_id: str
    rules: Rules
    candidates: Sequence[SuggestionCandidate]


class Generate:
    """The work of runs that make drafts."""

    def __init__(
        self, database: Database, provider: SuggestionProvider, fetcher: SuggestionFetcher, clock: Clock
    ) -> None:
        self._database = database
        self._provider = provider
        self._fetcher = fetcher
        self._clock = clock

    async def perform(self, lease: Lease, job: Job, usage: UsageMeter) -> Effect:
        """Fetch the suggestions; return the effect that writes the draft."""
        plan = await self._plan(job)
        answers = await self._fetcher.fetch(lease, job, plan.project, plan.candidates, usage)

        items = [_item(plan.rules, job.playbook, one.product_id, answers) async for one in breathing(plan.candidates)]

        async def write_draft(connection: Connection) -> Outcome:
            return await self._write_draft(connection, job, plan, items)

        return write_draft

    async def _plan(self, job: Job) -> _Plan:
        project = await checks.find_project(self._database, job)
        checks.require_plan(project)
        scope = await checks.current_scope(self._database, job, expected=_stated_scope(job))
        rules = await self._rules(job)
        candidates = await self._candidates(job)
        return _Plan(project, scope.id, rules, candidates)

    async def _candidates(self, job: Job) -> Sequence[SuggestionCandidate]:
        """Return the products to make suggestions for. That they are still the scope is checked at the end."""
        suggestions = Suggestions(self._database)
        depends = {"model": self._provider.model, "prompt_version": self._provider.prompt_version}
        if job.run_type is RunType.PREVIEW_GENERATE:
            limit = job.sample_size
            sample = await suggestions.sample(job.project_id, job.playbook, **depends, limit=limit)
            await suggestions.note_use(job.project_id, sample)
            return sample
        candidates: list[SuggestionCandidate] = []
        more = True
        while more:
            after = candidates[-1].product_id if candidates else ""
            page = await suggestions.page(job.project_id, job.playbook, **depends, after=after, limit=MAX_LIMIT)
            await suggestions.note_use(job.project_id, page.rows)
            candidates += page.rows
            more = page.more
        return candidates

    async def _rules(self, job: Job) -> Rules:
        """Return the rules to apply: a preview brings its own, a draft run takes those of the draft it completes."""
        if job.rules is not None or job.run_type is RunType.PREVIEW_GENERATE:
            checks.require_rules(job, job.rules or Rules())
        if job.run_type is RunType.PREVIEW_GENERATE:
            return job.rules or Rules()
        of_scope = await Drafts(self._database).of_scope(job.project_id, job.playbook, job.scope_id)
        return Rules.from_json(checks.draft_to_complete(job, of_scope, self._clock.now()).rules)

    async def _write_draft(self, connection: Connection, job: Job, plan: _Plan, items: Sequence[DraftItem]) -> Outcome:
        await Projects(connection).lock(job.project_id)
        scope = await checks.current_scope(connection, job, expected=plan.scope_id)
        usable = sum(not is_blank(item.final_suggestion) for item in items)
        now = self._clock.now()
        draft = Draft(
            id=uuid4(),
            key=DraftKey(job.project_id, job.playbook.id, plan.scope_id, rules_hash(plan.rules)),
            rules=plan.rules.normalized(),
            run_id=job.run_id,
            status=_status(job, items=len(items), usable=usable),
            affected_total=scope.products,
            draft_generated=usable,
            no_suggestion_count=len(items) - usable,
            model=self._provider.model,
            created_at=now,
            updated_at=now,
            expires_at=now + DRAFT_LIFETIME,
        )
        draft_id = await Drafts(connection).put(draft, items)
        reached(FailPoint.EXECUTOR_IN_DRAFT)
        _log_reasons(job, items)
        return Outcome(
            Status.SUCCEEDED,
            draft_id=draft_id,
            scope_id=draft.key.scope_id,
            rules_hash=draft.key.rules_hash,
            result={
                "affected_total": draft.affected_total,
                "draft_generated": draft.draft_generated,
                "no_suggestion_count": draft.no_suggestion_count,
            },
            total=len(items),
        )


def _stated_scope(job: Job) -> str | None:
    # A preview may leave it out: then any scope will do.
    return None if job.run_type is RunType.PREVIEW_GENERATE and not job.scope_id else job.scope_id


def _log_reasons(job: Job, items: Sequence[DraftItem]) -> None:
    without: defaultdict[str, list[str]] = defaultdict(list)
    for item in items:
        if item.no_suggestion_reason:
            without[item.no_suggestion_reason].append(item.product_id)
    for reason, product_ids in without.items():
        logger.warning(
            "run %s: %d of %d products have no suggestion: %s Products: %s%s",
            job.run_id,
            len(product_ids),
            len(items),
            reason,
            ", ".join(product_ids[:LOGGED_IDS]),
            ", ..." if len(product_ids) > LOGGED_IDS else "",
        )


def _item(rules: Rules, playbook: Playbook, product_id: str, answers: Answers) -> DraftItem:
    raw = answers.texts.get(product_id, "")
    ruled = apply(rules, raw, field_limit=playbook.field_limit)
    # Prefix, suffix and replacement are the shop's own text: markup in them is intended, invisible characters are not.
    final, reason = without_controls(ruled.text), ""
    if is_blank(final):
        reason = answers.reasons.get(product_id, EMPTY_TEXT) if is_blank(raw) else NOTHING_LEFT
    return DraftItem(product_id, raw, final, ruled.warnings, reason)


def _status(job: Job, *, items: int, usable: int) -> DraftStatus:
    if items and not usable:
        return DraftStatus.FAILED
    return DraftStatus.PARTIAL if job.run_type is RunType.PREVIEW_GENERATE else DraftStatus.READY
