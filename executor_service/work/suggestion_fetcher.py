"""Fetching suggestions: those that were paid for before, and the missing ones from the provider."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Protocol

from executor_service.ai.errors import AIBatchError, AIError, AIRefusedError
from executor_service.ai.provider import Answers, ProductBrief, SuggestionProvider, SuggestionRequest
from executor_service.ai.text import suggestion_line
from executor_service.domain.ai_usage import UsageMeter
from executor_service.domain.catalog import Project
from executor_service.domain.execution import Job, Lease
from executor_service.domain.failures import FailedRun
from executor_service.domain.suggestion import Suggestion, SuggestionCandidate
from executor_service.execution.event_publisher import EventPublisher
from executor_service.execution.leases import Leases
from executor_service.metrics import ExecutorMetrics
from executor_service.playbooks import quota
from executor_service.playbooks.quota import Allowance
from executor_service.store.executions import Executions
from executor_service.store.suggestions import Suggestions
from executor_service.store.usage import Usage
from servicekit.background.breathing import breathing
from servicekit.blanks import is_blank
from servicekit.clock import Clock
from servicekit.failpoints import FailPoint, reached
from servicekit.postgres.database import Database

PROGRESS_INTERVAL = 0.25  # seconds between two progress reports of a run
PATIENCE = (
    0.95  # of the time until the run's deadline: a rate limit is waited for so long, and an answer takes a moment
)
FRUITLESS = 5  # requests without a usable text, in a run that has none: those after them would not do better
EMPTY_TEXT = "The AI provider answered with an empty text for this product."


class SuggestionFetcher:
    """Fetches suggestions for runs: `batch_size` products with a request, `concurrency` requests of one run at once.
    The provider bounds those of all runs together."""

    def __init__(
        self,
        database: Database,
        provider: SuggestionProvider,
        leases: Leases,
        publisher: EventPublisher,
        clock: Clock,
        *,
        metrics: ExecutorMetrics,
        batch_size: int,
        concurrency: int,
    ) -> None:
        self._database = database
        self._provider = provider
        self._leases = leases
        self._publisher = publisher
        self._clock = clock
        self._metrics = metrics
        self._batch_size = batch_size
        self._concurrency = concurrency

    async def fetch(
        self,
        lease: Lease,
        job: Job,
        project: Project,
        candidates: Sequence[SuggestionCandidate],
        usage: UsageMeter,
    ) -> Answers:
        """Return the usable suggestions by product id, cleaned, and for each other product why it has none.

        What is missing is reserved from the project's allowance, asked for, and stored as it arrives, with what `usage`
        has counted; products of the same content share one suggestion. Raises FailedRun when it does not fit, AIError
        when the provider fails for good or nothing usable came, LeaseLost.
        """
        texts: dict[str, str] = {}
        reasons: dict[str, str] = {}
        missing = _Missing()
        async for product in breathing(candidates):
            if product.stored is None:
                missing.add(product)
            else:
                # An executor of an older version stored what the provider wrote as it was.
                texts[product.product_id] = suggestion_line(product.stored)
        usage.found(len(texts), model=self._provider.model)
        self._metrics.suggestions_reused.inc(len(texts))
        if missing.products:
            await self._reserve(lease, project, len(missing.products), done=len(texts), total=len(candidates))
            fetch = _Fetch(
                missing,
                self._batch_size,
                ask=partial(self._ask, lease, job, usage),
                store=partial(self._store, lease, job, usage, total=len(candidates)),
                texts=texts,
                reasons=reasons,
            )
            await fetch.run(at_once=self._concurrency)
        return Answers(texts, reasons)

    async def _reserve(self, lease: Lease, project: Project, count: int, *, done: int, total: int) -> None:
        now = self._clock.now()
        limit = quota.daily_limit(project.plan, project.ai_daily_limit)
        async with self._database.transaction() as connection:
            if await self._leases.lock_lease(connection, lease):
                await Usage(connection).give_back(lease)  # reserved by an attempt that died
            fits = await Usage(connection).reserve(lease, project.id, day=now.date(), count=count, limit=limit)
            if not fits:
                used = await Usage(connection).used(project.id, now.date())
                self._metrics.quota_refusals.inc()
                shortage = Allowance(limit, used, quota.next_reset(now)).shortage(count)
                raise FailedRun("AI_DAILY_LIMIT_REACHED", shortage)
            state = await Executions(connection).set_progress(lease, completed=done, total=total)
        self._publisher.report(state)

    async def _ask(self, lease: Lease, job: Job, usage: UsageMeter, products: Sequence[SuggestionCandidate]) -> Answers:
        if not self._leases.holds(lease):  # else two attempts would pay for the same suggestions
            async with self._database.transaction() as connection:
                await self._leases.lock_lease(connection, lease)
        briefs = [ProductBrief(product.product_id, product.title, product.description) for product in products]
        reached(FailPoint.EXECUTOR_BEFORE_AI_REQUEST)
        patience = None
        if job.deadline:
            patience = max((job.deadline - self._clock.now()).total_seconds(), 0.0) * PATIENCE
        answers = await self._provider.suggest(
            SuggestionRequest(
                job.playbook.field,
                briefs,
                job.project_id,
                patience_seconds=patience,
                usage=usage,
                economy=job.economy,
            )
        )
        reached(FailPoint.EXECUTOR_AFTER_AI_REPLY)
        return answers

    async def _store(
        self,
        lease: Lease,
        job: Job,
        usage: UsageMeter,
        arrived: Sequence[Suggestion],
        *,
        completed: int,
        total: int,
        report: bool,
    ) -> None:
        usage.arrived(len(arrived))
        state = await Suggestions(self._database).record(
            lease,
            job.project_id,
            arrived,
            model=self._provider.model,
            usage=usage.total,
            completed=completed,
            total=total,
            report=report,
        )
        self._metrics.suggestions_made.inc(len(arrived))
        if report:
            self._publisher.report(state)


class _Missing:
    """The products that have no suggestion, grouped by content: one of each group goes into a request."""

    def __init__(self) -> None:
        self.products: list[SuggestionCandidate] = []
        self._groups: defaultdict[bytes, list[SuggestionCandidate]] = defaultdict(list)

    def add(self, product: SuggestionCandidate) -> None:
        """Add a product."""
        group = self._groups[product.fingerprint]
        if not group:
            self.products.append(product)
        group.append(product)

    def same_content(self, product: SuggestionCandidate) -> Sequence[SuggestionCandidate]:
        """Return the products of this one's content, itself included."""
        return self._groups[product.fingerprint]


class _Store(Protocol):
    async def __call__(self, arrived: Sequence[Suggestion], *, completed: int, report: bool) -> None: ...


_Answer = tuple[Sequence[SuggestionCandidate], Answers]


class _Fetch:
    """One run's requests: some under way at once, and one writer for their answers.

    Answers that arrive during a write make up the next one. Takes how to `ask`, how to `store` what arrived, and the
    `texts` and `reasons` to complete.
    """

    def __init__(
        self,
        missing: _Missing,
        batch_size: int,
        *,
        ask: Callable[[Sequence[SuggestionCandidate]], Awaitable[Answers]],
        store: _Store,
        texts: dict[str, str],
        reasons: dict[str, str],
    ) -> None:
        self._missing = missing
        products = missing.products
        self._requests = [products[start : start + batch_size] for start in range(0, len(products), batch_size)]
        self._pending = iter(self._requests)
        self._ask = ask
        self._store = store
        self._texts = texts
        self._reasons = reasons
        self._senders = 0
        self._unstored = asyncio.Semaphore(0)  # room for requests under way and answers that are not stored yet
        self._answers: asyncio.Queue[_Answer | None] = asyncio.Queue()  # None: there are no more
        self._failure: AIError | None = None
        self._unanswered: AIBatchError | None = None  # of a request without a text, through its products' own fault
        self._fruitless = 0

    async def run(self, *, at_once: int) -> None:
        """Send requests until all are answered, or one has failed for good: the others under way still come in and are
        stored, since they are paid for. Raises AIError, LeaseLost, ServiceError."""
        self._senders = min(at_once, len(self._requests))
        # Each sender may send its next request while its last answer is being stored, and no more: a crash loses what
        # is not stored.
        self._unstored = asyncio.Semaphore(2 * self._senders)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._store_answers())
                for _ in range(self._senders):
                    tasks.create_task(self._send_requests())
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        if self._failure is None and not self._texts:
            self._failure = self._unanswered
        if self._failure is not None:
            raise self._failure

    async def _send_requests(self) -> None:
        for products in self._pending:
            await self._unstored.acquire()
            if self._failure is not None:
                break
            try:
                answers = await self._ask(products)
            except AIBatchError as error:
                answers = Answers(reasons=dict.fromkeys((product.product_id for product in products), error.reason))
                self._note(error)
            except AIError as error:
                self._failure, answers = self._failure or error, Answers(error.partial)
            self._answers.put_nowait((products, answers))
        self._senders -= 1
        if not self._senders:
            self._answers.put_nowait(None)

    def _note(self, error: AIBatchError) -> None:
        self._unanswered = error
        self._fruitless += 1
        # What a filter refuses says nothing of the products after it.
        if not self._texts and self._fruitless >= FRUITLESS and not isinstance(error, AIRefusedError):
            self._failure = self._failure or error

    @property
    def _completed(self) -> int:
        """Products that are done. Those without a suggestion are not while there is no text: the run may fail of it."""
        return len(self._texts) + (len(self._reasons) if self._texts else 0)

    async def _store_answers(self) -> None:
        clock = asyncio.get_running_loop().time
        next_report = clock() + PROGRESS_INTERVAL
        while answers := await self._next_answers():
            usable = [suggestion for answer in answers for suggestion in self._usable(*answer)]
            if report := clock() >= next_report:
                next_report = clock() + PROGRESS_INTERVAL
            if usable or report:
                await self._store(usable, completed=self._completed, report=report)
            for _ in answers:
                self._unstored.release()

    async def _next_answers(self) -> list[_Answer]:
        """Return all answers that are here, one at least; none when there are no more."""
        answers: list[_Answer] = []
        while not answers or not self._answers.empty():
            answer = await self._answers.get()
            if answer is None:
                self._answers.put_nowait(None)  # for the next call
                break
            answers.append(answer)
        return answers

    def _usable(self, products: Sequence[SuggestionCandidate], answers: Answers) -> Iterator[Suggestion]:
        for product in products:
            group = self._missing.same_content(product)
            if product.product_id in answers.texts:
                # Whichever the provider: markup and invisible characters must not get into a shop, so they are not
                # stored.
                text = suggestion_line(answers.texts[product.product_id])
                if not is_blank(text):
                    self._texts.update((one.product_id, text) for one in group)
                    yield Suggestion(product.fingerprint, text)
                    continue
            elif product.product_id not in answers.reasons:
                continue  # its request failed before it was answered
            reason = answers.reasons.get(product.product_id, EMPTY_TEXT)
            self._reasons.update((one.product_id, reason) for one in group)
