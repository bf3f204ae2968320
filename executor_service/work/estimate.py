"""What a run would do, and whether it may, without doing it."""

from collections.abc import Sequence
from dataclasses import dataclass

from executor_service.ai.provider import SuggestionProvider
from executor_service.catalog import Catalog
from executor_service.domain.catalog import Scope
from executor_service.playbooks import quota
from executor_service.playbooks.playbook import Playbook
from executor_service.playbooks.quota import Allowance
from executor_service.playbooks.rules import Rules, rules_hash
from executor_service.store import catalog, suggestions
from executor_service.work.heavy_reads import HeavyReads
from servicekit.postgres.database import Database


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a DRAFT_GENERATE for all affected products would be about."""

    scope: Scope
    rules_hash: str
    reasons: Sequence[str]  # for a person: why it would be refused
    allowance: Allowance


class Estimator:
    """Estimates runs. Calls no AI. Its reads of large projects go through `heavy_reads`."""

    def __init__(
        self, database: Database, provider: SuggestionProvider, catalog: Catalog, heavy_reads: HeavyReads
    ) -> None:
        self._database = database
        self._provider = provider
        self._catalog = catalog
        self._heavy_reads = heavy_reads

    async def estimate(self, project_id: str, playbook: Playbook, rules: Rules) -> Estimate:
        """Return what a run would do now. Raises ServiceError (PROJECT_NOT_FOUND, TOO_MANY_CALLS)."""
        found = await self._heavy_reads.share(project_id, playbook.id, lambda: self._read(project_id, playbook))
        return Estimate(found.scope, rules_hash(rules), found.reasons, found.allowance)

    async def _read(self, project_id: str, playbook: Playbook) -> "_RulelessEstimate":
        """Read the parts of an estimate. They need no common snapshot: a run checks everything again."""
        project = await self._catalog.project(project_id)
        allowance = await self._catalog.allowance(project)
        reasons = []
        async with self._database.autocommit() as connection:
            scope = await catalog.scope(connection, project_id, playbook)
            if not scope.products:
                reasons.append(f"No product lacks its {playbook.noun}: there is nothing to do.")
            if problem := quota.ineligible_plan(project.id, project.plan):
                reasons.append(problem)
            elif allowance.limit is not None:  # counting them takes twenty times as long as all the rest
                missing = await suggestions.missing(
                    connection,
                    project_id,
                    playbook,
                    model=self._provider.model,
                    prompt_version=self._provider.prompt_version,
                )
                if not allowance.fits(missing):
                    reasons.append(allowance.shortage(missing))
        return _RulelessEstimate(scope, reasons, allowance)


@dataclass(frozen=True, slots=True)
class _RulelessEstimate:
    """The parts of an estimate that do not depend on the rules."""

    scope: Scope
    reasons: Sequence[str]
    allowance: Allowance
