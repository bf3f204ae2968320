"""What a run would do, and whether it may, without doing it."""

from collections.abc import Sequence
from dataclasses import dataclass

from executor_service.ai.provider import Expectation, ProductBrief, SuggestionProvider
from executor_service.catalog import Catalog
from executor_service.domain.catalog import Scope
from executor_service.playbooks import quota
from executor_service.playbooks.playbook import Playbook
from executor_service.playbooks.quota import Allowance
from executor_service.playbooks.rules import Rules, rules_hash
from executor_service.store.products import Products
from executor_service.store.suggestions import Suggestions
from executor_service.work.heavy_reads import HeavyReads
from servicekit.postgres.database import Database

SAMPLE = 100  # products, about; as many to twice as many are read


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a DRAFT_GENERATE for all affected products would be about."""

    scope: Scope
    rules_hash: str
    reasons: Sequence[str]  # for a person: why it would be refused
    allowance: Allowance
    expectation: Expectation  # of the AI provider


class Estimator:
    """Estimates runs, which ask for suggestions for `batch_size` products with a request. Calls no AI.

    Its reads of large projects go through `heavy_reads`. What a run would ask for is extrapolated from a sample of
    SAMPLE products: to read all texts of a large project would take as long as to preview it.
    """

    def __init__(
        self,
        database: Database,
        provider: SuggestionProvider,
        catalog: Catalog,
        heavy_reads: HeavyReads,
        *,
        batch_size: int,
    ) -> None:
        self._database = database
        self._provider = provider
        self._catalog = catalog
        self._heavy_reads = heavy_reads
        self._batch_size = batch_size

    async def estimate(self, project_id: str, playbook: Playbook, rules: Rules) -> Estimate:
        """Return what a run would do now. Raises ServiceError (PROJECT_NOT_FOUND, TOO_MANY_CALLS)."""
        found = await self._heavy_reads.share(project_id, playbook.id, lambda: self._read(project_id, playbook))
        return Estimate(found.scope, rules_hash(rules), found.reasons, found.allowance, found.expectation)

    async def _read(self, project_id: str, playbook: Playbook) -> "_RulelessEstimate":
        """Read the parts of an estimate. They need no common snapshot: a run checks everything again."""
        project = await self._catalog.project(project_id)
        allowance = await self._catalog.allowance(project)
        reasons = []
        missing = None
        scope = await Products(self._database).scope(project_id, playbook)
        if not scope.products:
            reasons.append(f"No product lacks its {playbook.noun}: there is nothing to do.")
        if problem := quota.ineligible_plan(project.id, project.plan):
            reasons.append(problem)
        elif allowance.limit is not None:  # counting them takes twenty times as long as all the rest
            missing = await Suggestions(self._database).missing(
                project_id,
                playbook,
                model=self._provider.model,
                prompt_version=self._provider.prompt_version,
            )
            if not allowance.fits(missing):
                reasons.append(allowance.shortage(missing))
        expectation = await self._expect(project_id, playbook, scope, missing)
        return _RulelessEstimate(scope, reasons, allowance, expectation)

    async def _expect(self, project_id: str, playbook: Playbook, scope: Scope, missing: int | None) -> Expectation:
        """Return what a run would ask for: `missing` suggestions, where they were counted, else as in the sample."""
        sample = await Suggestions(self._database).spread(
            project_id,
            playbook,
            model=self._provider.model,
            prompt_version=self._provider.prompt_version,
            every=max(scope.products // SAMPLE, 1),
            limit=2 * SAMPLE,
        )
        briefs = [ProductBrief(one.product_id, one.title, one.description) for one in sample if one.stored is None]
        if missing is None:
            missing = round(scope.products * len(briefs) / len(sample)) if sample else 0
        return await self._provider.expect(playbook.field, briefs, products=missing, batch_size=self._batch_size)


@dataclass(frozen=True, slots=True)
class _RulelessEstimate:
    """The parts of an estimate that do not depend on the rules."""

    scope: Scope
    reasons: Sequence[str]
    allowance: Allowance
    expectation: Expectation
