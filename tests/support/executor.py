"""The executor's parts over a database of their own, with a clock and a provider that tests control."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Self
from uuid import uuid4

from playbooks.executor.v1.job_pb2 import RunJob
from playbooks.runs.v1.run_pb2 import PlaybookRules, Run, RunMeta

from executor_service import messages
from executor_service.ai.expectation import expect
from executor_service.ai.prompts import PROMPT
from executor_service.ai.provider import Answers, Expectation, ProductBrief, SuggestionRequest
from executor_service.catalog import Catalog
from executor_service.domain.catalog import Product
from executor_service.domain.draft import DraftPage
from executor_service.domain.execution import Job, RunType, State, Status
from executor_service.execution.cancellation import Cancellation
from executor_service.execution.claimer import Claimer
from executor_service.execution.event_publisher import EventPublisher
from executor_service.execution.follower import Follower
from executor_service.execution.inbox import Inbox
from executor_service.execution.leases import Heartbeat, Leases
from executor_service.execution.outcomes import OutcomeWriter
from executor_service.execution.pipeline import Pipeline
from executor_service.execution.slots import Slots
from executor_service.execution.types import Work
from executor_service.metrics import ExecutorMetrics
from executor_service.playbooks.quota import Plan
from executor_service.queries import Queries
from executor_service.work.affected import AffectedLookup
from executor_service.work.apply import Apply
from executor_service.work.estimate import Estimator
from executor_service.work.generate import Generate
from executor_service.work.heavy_reads import HeavyReads
from executor_service.work.suggestion_fetcher import SuggestionFetcher
from servicekit.background.tasks import running
from servicekit.postgres.database import Database
from servicekit.telemetry.metrics import Metrics
from tests.support.database import rows

TITLES = "missing_seo_title"
DESCRIPTIONS = "missing_seo_description"


class FakeClock:
    """A clock that stands until it is moved."""

    def __init__(self, now: datetime = datetime(2026, 5, 4, 12, tzinfo=UTC)) -> None:
        self._now = now

    def now(self) -> datetime:
        return self._now

    def advance(self, by: timedelta) -> None:
        self._now += by


class ScriptedProvider:
    """Writes "<title> by AI", counts what it is asked, and fails or waits on demand."""

    model = "scripted"
    prompt_version = "1"

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.requests = 0
        self.blank: set[str] = set()  # products it has no text for
        self.reasons: dict[str, str] = {}  # of products that it has no answer for
        self.patience: float | None = None  # of the last request
        self.failing: dict[str, Exception] = {}  # by product
        self.waiting = asyncio.Event()  # set while requests are held back
        self.open = asyncio.Event()  # clear it to hold requests back
        self.held: set[str] = set()  # requests for one of these products never end
        self.open.set()

    async def suggest(self, request: SuggestionRequest) -> Answers:
        self.requests += 1
        assert request.usage
        request.usage.sent()
        self.patience = request.patience_seconds
        ids = [product.product_id for product in request.products]
        self.asked.update(ids)
        if not self.open.is_set():
            self.waiting.set()
            await self.open.wait()
        if not self.held.isdisjoint(ids):
            await asyncio.Event().wait()
        request.usage.answered(input_tokens=100, cached_input_tokens=40, output_tokens=10)
        for product_id in ids:
            if product_id in self.failing:
                raise self.failing[product_id]
        texts = {
            product.product_id: "" if product.product_id in self.blank else f"{product.title} by AI"
            for product in request.products
            if product.product_id not in self.reasons
        }
        return Answers(texts, {product_id: self.reasons[product_id] for product_id in ids if product_id not in texts})

    async def expect(
        self, field: str, sample: Sequence[ProductBrief], *, products: int, batch_size: int
    ) -> Expectation:
        return await expect(PROMPT, field, sample, products=products, batch_size=batch_size)

    async def close(self) -> None:
        pass


class Bench:
    """One executor_service without its gRPC server. Two of them on one database are two replicas."""

    def __init__(
        self,
        url: str,
        *,
        clock: FakeClock | None = None,
        provider: ScriptedProvider | None = None,
        owner: str = "one",
        concurrency: int = 4,
        lease_seconds: float = 15.0,
        batch_size: int = 2,
        max_products: int = 1_000_000,
    ) -> None:
        self.url = url
        self.clock = clock or FakeClock()
        self.provider = provider or ScriptedProvider()
        self.owner = owner
        self.metrics = Metrics()
        self.database = Database(url, pool_size=6, application_name=f"bench-{owner}")
        self.publisher = EventPublisher(self.database, None)
        of_executor = ExecutorMetrics(self.metrics, slots=concurrency)
        self.leases = Leases(self.database, of_executor, owner=owner, seconds=lease_seconds)
        self.heartbeat = Heartbeat(self.leases)
        self.outcomes = OutcomeWriter(self.database)
        fetcher = SuggestionFetcher(
            self.database,
            self.provider,
            self.leases,
            self.publisher,
            self.clock,
            metrics=of_executor,
            batch_size=batch_size,
            concurrency=2,
        )
        self.generate = Generate(self.database, self.provider, fetcher, self.clock)
        self.affected = AffectedLookup(self.database)
        self.apply = Apply(self.affected, self.clock)
        self.pipeline = Pipeline(
            self.database, self.leases, self.outcomes, self.publisher, work=self.work, clock=self.clock
        )
        self.slots = Slots(self.leases, count=concurrency)
        self.claimer = Claimer(self.database, self.leases, self.slots, self.pipeline, self.clock, grace_seconds=0)
        self.inbox = Inbox(self.database, self.leases, self.slots, self.claimer)
        self.catalog = Catalog(
            self.database, self.clock, self.metrics, default_plan=Plan.FREE, max_products=max_products
        )
        self.cancellation = Cancellation(self.database, self.leases, self.publisher)
        self.queries = Queries(self.database)
        self.estimator = Estimator(
            self.database,
            self.provider,
            self.catalog,
            HeavyReads(at_once=2, metrics=self.metrics),
            batch_size=batch_size,
        )
        self.follower = Follower(self.database, self.publisher)

    def work(self, job: Job) -> Work:
        return self.apply if job.run_type is RunType.APPLY else self.generate

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.claimer.stop()
        await self.database.close()

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Execute what is in the inbox, within the block."""
        async with running(
            self.publisher.marks, self.publisher, self.heartbeat, self.affected, self.outcomes, self.claimer
        ):
            yield

    # Catalog

    async def stock(
        self, count: int, *, project: str = "p", plan: Plan = Plan.BUSINESS, limit: int | None = None
    ) -> list[str]:
        """Put a project with `count` products without SEO fields; return their ids."""
        await self.catalog.put_project(project, plan=plan, ai_daily_limit=limit, by_platform=True)
        products = [Product(f"{n:05}", "", f"Thing {n}", "Good.", "", "") for n in range(count)]
        if products:
            await self.catalog.put_products(project, products)
        return [product.id for product in products]

    async def put(self, product_id: str, *, project: str = "p", **fields: str) -> None:
        values = {"external_id": "", "title": "T", "description": "", "seo_title": "", "seo_description": ""} | fields
        await self.catalog.put_products(project, [Product(product_id, **values)])

    async def titles(self, project: str = "p") -> dict[str, str]:
        page = await self.catalog.products(project, "", limit=1000, page_token="")
        return {product.id: product.seo_title for product in page.rows}

    async def ai_used(self, project: str = "p") -> int:
        return (await self.catalog.allowance(await self.catalog.project(project))).used

    # Runs

    async def execute(self, job: Job) -> State:
        """Take the job in and return how it ended; `working` must be on somewhere."""
        states = await self.follow(job)
        return states[-1]

    async def follow(self, job: Job) -> list[State]:
        """Take the job in and return every state up to its end."""
        states: list[State] = []

        async def note(state: State) -> None:
            states.append(state)

        await self.inbox.accept([job])
        async with asyncio.timeout(20):
            await self.follower.follow(job.run_id, note)
        return states

    async def preview(self, *, expect: Status = Status.SUCCEEDED, **fields: Any) -> State:
        return await self._executed(Run.PREVIEW_GENERATE, expect, fields)

    async def draft(self, preview: State, *, expect: Status = Status.SUCCEEDED, **fields: Any) -> State:
        return await self._executed(Run.DRAFT_GENERATE, expect, _after(preview) | fields)

    async def applied(self, preview: State, *, expect: Status = Status.SUCCEEDED, **fields: Any) -> State:
        return await self._executed(Run.APPLY, expect, _after(preview) | fields)

    async def _executed(self, run_type: Run.Type.ValueType, expect: Status, fields: dict[str, Any]) -> State:
        state = await self.execute(job(run_type, **fields))
        assert state.status is expect, f"{state.status} {state.error_code}: {state.error_message}"
        return state

    async def latest_draft(self, playbook_id: str = TITLES, project: str = "p") -> DraftPage:
        return await self.queries.latest_draft(project, playbook_id)

    # Looking behind the scenes

    async def stored_suggestions(self, count: int) -> bool:
        """Whether so many suggestions have arrived and are stored."""
        return bool(await self.value("SELECT count(*) FROM executor.suggestions") == count)

    async def rows(self, statement: str, **parameters: Any) -> Sequence[Any]:
        return await rows(self.database, statement, **parameters)

    async def value(self, statement: str, **parameters: Any) -> Any:
        ((value,),) = await self.rows(statement, **parameters)
        return value


def _after(preview: State) -> dict[str, Any]:
    return {"scope_id": preview.scope_id, "rules_hash": preview.rules_hash}


def job(
    run_type: Run.Type.ValueType = Run.PREVIEW_GENERATE,
    *,
    project: str = "p",
    playbook_id: str = TITLES,
    scope_id: str = "",
    rules_hash: str = "",
    sample: int | None = None,
    rules: PlaybookRules | None = None,
    deadline: datetime | None = None,
) -> Job:
    """Return a job of a new run."""
    return messages.job(
        RunJob(
            run_id=str(uuid4()),
            project_id=project,
            playbook_id=playbook_id,
            run_type=run_type,
            scope_id=scope_id,
            rules_hash=rules_hash,
            meta=RunMeta(sample_size=sample, rules=rules),
            request_id="request-1",
            deadline=deadline,
        )
    )
