"""The preconditions of a run's work; what is not met is raised with a message for a person."""

from collections.abc import Sequence
from datetime import datetime

from executor_service.domain.catalog import Project, Scope
from executor_service.domain.draft import Draft
from executor_service.domain.execution import Job
from executor_service.domain.failures import FailedRun, StaleRun
from executor_service.playbooks import quota
from executor_service.playbooks.rules import Rules, rules_hash
from executor_service.store import catalog
from servicekit.postgres.database import Connection


async def find_project(connection: Connection, job: Job) -> Project:
    """Return the job's project. Raises FailedRun."""
    project = await catalog.find_project(connection, job.project_id)
    if project is None:
        raise project_not_found(job)
    return project


def project_not_found(job: Job) -> FailedRun:
    """Return the failure of a run whose project does not exist."""
    return FailedRun(
        "PROJECT_NOT_FOUND",
        f"There is no project {job.project_id}. Create it with CatalogService.PutProject and put its products, "
        "then start the run again.",
    )


def require_plan(project: Project) -> None:
    """Raises FailedRun when the project's plan gives no AI suggestions."""
    if problem := quota.ineligible_plan(project.id, project.plan):
        raise FailedRun("PLAN_NOT_ELIGIBLE", problem)


async def current_scope(connection: Connection, job: Job, *, expected: str | None) -> Scope:
    """Return the current scope. Raises StaleRun when `expected` is another one; None: any will do."""
    current = await catalog.scope(connection, job.project_id, job.playbook)
    require_scope(job, current, expected=expected)
    return current


def require_scope(job: Job, current: Scope, *, expected: str | None) -> None:
    """Raises StaleRun when the `current` scope is not the `expected` one."""
    if expected is not None and expected != current.id:
        raise StaleRun(
            "PLAYBOOK_SCOPE_INVALID",
            f"The products without {job.playbook.noun} have changed since scope {expected} was read: the current scope "
            f"is {current.id} with {current.products} products. Make a new preview and go on with its scope.",
        )


def require_rules(job: Job, rules: Rules) -> None:
    """Raises StaleRun when the job names other rules by their hash than `rules`."""
    stated = rules_hash(rules)
    if job.rules_hash and job.rules_hash != stated:
        raise StaleRun(
            "PLAYBOOK_RULES_CHANGED",
            f"The rules of this run have the hash {stated}, and it was asked for {job.rules_hash}. "
            "Make a new preview with the rules you want and go on with its rules hash.",
        )


def draft_to_complete(job: Job, drafts: Sequence[Draft], now: datetime) -> Draft:
    """Return the one of the scope's `drafts` that a DRAFT_GENERATE completes. Raises StaleRun."""
    alive = [draft for draft in drafts if now < draft.expires_at]
    for draft in alive:
        if draft.key.rules_hash == job.rules_hash:
            return draft
    same_rules = [draft for draft in drafts if draft.key.rules_hash == job.rules_hash]
    if not drafts:
        raise _no_draft(job)
    if same_rules or not alive:
        raise _expired((same_rules or list(drafts))[0])
    raise _other_rules(job, alive[0])


def draft_to_apply(job: Job, drafts: Sequence[Draft], now: datetime) -> Draft:
    """Return the latest of the scope's `drafts` (newest first) if an APPLY may write it. Raises StaleRun."""
    if not drafts:
        raise _no_draft(job)
    latest = drafts[0]
    if now >= latest.expires_at:
        raise _expired(latest)
    if latest.key.rules_hash != job.rules_hash:
        raise _other_rules(job, latest)
    return latest


def _no_draft(job: Job) -> StaleRun:
    return StaleRun(
        "PLAYBOOK_DRAFT_NOT_FOUND",
        f"There is no draft for scope {job.scope_id} of {job.playbook.id}. Make a preview first.",
    )


def _expired(draft: Draft) -> StaleRun:
    return StaleRun(
        "PLAYBOOK_DRAFT_EXPIRED",
        f"Draft {draft.id} expired at {draft.expires_at:%Y-%m-%d %H:%M} UTC. Make a new preview; suggestions that are "
        "still right are taken over at no cost.",
    )


def _other_rules(job: Job, draft: Draft) -> StaleRun:
    return StaleRun(
        "PLAYBOOK_RULES_CHANGED",
        f"The draft of scope {job.scope_id} was made with rules {draft.key.rules_hash}, and this run asks for "
        f"{job.rules_hash}. Make a new preview with the rules you want and go on with its rules hash.",
    )
