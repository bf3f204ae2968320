"""What a run would do, and whether it may, without doing it."""

from collections.abc import Sequence
from dataclasses import dataclass

from executor_service import quota
from executor_service.ai.provider import SuggestionProvider
from executor_service.catalog import Catalog
from executor_service.playbooks.playbook import Playbook
from executor_service.playbooks.rules import Rules, rules_hash
from executor_service.playbooks.scope import scope_id
from executor_service.quota import Allowance
from executor_service.store import suggestions
from servicekit.database import Database


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a DRAFT_GENERATE for all affected products would be about."""

    scope_id: str
    rules_hash: str
    total_affected: int
    reasons: Sequence[str]  # why it would not be let through, for a person
    allowance: Allowance


class Estimator:
    """Estimates runs. Calls no AI."""

    def __init__(self, database: Database, provider: SuggestionProvider, catalog: Catalog) -> None:
        self._database = database
        self._provider = provider
        self._catalog = catalog

    async def estimate(self, project_id: str, playbook: Playbook, rules: Rules) -> Estimate:
        """Return what a run would do now. Raises ServiceError (PROJECT_NOT_FOUND)."""
        project = await self._catalog.project(project_id)
        allowance = await self._catalog.allowance(project)
        async with self._database.autocommit() as connection:
            affected = await suggestions.affected(
                connection,
                project_id,
                playbook,
                model=self._provider.model,
                prompt_version=self._provider.prompt_version,
            )
        reasons = []
        if not affected.product_ids:
            reasons.append(f"No product lacks its {playbook.noun}: there is nothing to do.")
        if problem := quota.ineligible_plan(project):
            reasons.append(problem)
        elif not allowance.fits(affected.missing):
            reasons.append(allowance.shortage(affected.missing))
        return Estimate(
            scope_id(project_id, playbook.id, affected.product_ids),
            rules_hash(rules),
            len(affected.product_ids),
            reasons,
            allowance,
        )
