"""APPLY: the draft's suggestions, written into the catalog. Never calls AI."""

import logging
from uuid import UUID

from executor_service.domain.ai_usage import UsageMeter
from executor_service.domain.catalog import Scope
from executor_service.domain.execution import Job, Lease, Outcome, Status
from executor_service.execution.types import Effect
from executor_service.playbooks.scope import scope_id
from executor_service.store.drafts import Drafts
from executor_service.store.projects import Projects
from executor_service.store.run_items import RunItems
from executor_service.work import preconditions as checks
from executor_service.work.affected import AffectedLookup
from servicekit.clock import Clock
from servicekit.postgres.database import Connection

logger = logging.getLogger(__name__)


class Apply:
    """Work of the runs that write a draft. All they write is one transaction, and what was checked is checked again
    in there: it is still so when it commits."""

    def __init__(self, affected: AffectedLookup, clock: Clock) -> None:
        self._affected = affected
        self._clock = clock

    async def perform(self, lease: Lease, job: Job, usage: UsageMeter) -> Outcome | Effect:
        """Look whether there is anything to write."""
        has_affected = await self._affected.submit((job.project_id, job.playbook))
        if has_affected is None:
            raise checks.project_not_found(job)
        if not has_affected:
            empty = Scope(scope_id(job.project_id, job.playbook.id, ()), products=0)
            checks.require_scope(job, empty, expected=job.scope_id)
            return self._completed(job, draft_id=None, affected=0, updated=0)

        async def apply(connection: Connection) -> Outcome:
            return await self._apply(connection, job)

        return apply

    async def _apply(self, connection: Connection, job: Job) -> Outcome:
        await Projects(connection).lock(job.project_id)
        scope = await checks.current_scope(connection, job, expected=job.scope_id)
        draft_id, updated = await self._write(connection, job)
        return self._completed(job, draft_id=draft_id, affected=scope.products, updated=updated)

    def _completed(self, job: Job, *, draft_id: UUID | None, affected: int, updated: int) -> Outcome:
        logger.info(
            "apply.completed { projectId: %s, playbookId: %s, runId: %s, totalAffected: %d, updated: %d, skipped: %d, "
            "failed: 0, aiCalled: false }",
            job.project_id,
            job.playbook.id,
            job.run_id,
            affected,
            updated,
            affected - updated,
        )
        return Outcome(
            Status.SUCCEEDED,
            draft_id=draft_id,
            scope_id=job.scope_id,
            rules_hash=job.rules_hash,
            result={
                "total_affected": affected,
                "attempted": updated,
                "updated": updated,
                "skipped": affected - updated,
                "failed": 0,
            },
            total=affected,
        )

    async def _write(self, connection: Connection, job: Job) -> tuple[UUID, int]:
        of_scope = await Drafts(connection).of_scope(job.project_id, job.playbook, job.scope_id)
        draft = checks.draft_to_apply(job, of_scope, self._clock.now())
        logger.info(
            "apply.started { projectId: %s, playbookId: %s, scopeId: %s, runId: %s, usedDraft: true }",
            job.project_id,
            job.playbook.id,
            job.scope_id,
            job.run_id,
        )
        updated = await RunItems(connection).apply(
            job.project_id,
            job.playbook,
            draft.id,
            run_id=job.run_id,
            skipped=f"The draft has no usable {job.playbook.noun} for this product.",
        )
        return draft.id, updated
