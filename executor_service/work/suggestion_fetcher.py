"""Fetching suggestions: those that were paid for before, and the missing ones from the provider."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Protocol

from executor_service.ai.errors import AIError, AIRefusedError
from executor_service.ai.provider import ProductBrief, SuggestionProvider, SuggestionRequest
from executor_service.ai.text import clean_line
from executor_service.domain.catalog import Project
from executor_service.domain.execution import Job, Lease
from executor_service.domain.failures import FailedRun
from executor_service.domain.suggestion import Suggestion, SuggestionCandidate
from executor_service.execution.event_publisher import EventPublisher
from executor_service.execution.leases import Leases
from executor_service.playbooks import quota
from executor_service.playbooks.playbook import is_blank
from executor_service.playbooks.quota import Allowance
from executor_service.store import executions, usage
from executor_service.store import suggestions as store
from servicekit.background.breathing import breathing
from servicekit.clock import Clock
from servicekit.failpoints import FailPoint, reached
from servicekit.postgres.database import Database

RECORD_PAUSE = 0.02  # seconds between two writes of what arrived
PROGRESS_INTERVAL = 0.25  # seconds between two progress reports of a run


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
        batch_size: int,
        concurrency: int,
    ) -> None:
        self._database = database
        self._provider = provider
        self._leases = leases
        self._publisher = publisher
        self._clock = clock
        self._batch_size = batch_size
        self._concurrency = concurrency

    async def fetch(
        self, lease: Lease, job: Job, project: Project, candidates: Sequence[SuggestionCandidate]
    ) -> Mapping[str, str]:
        """Return the usable suggestions by product id.

        What is missing is reserved from the project's allowance, asked for, and stored as it arrives; products of the
        same content share one suggestion. Raises FailedRun when it does not fit, AIError when the provider fails for
        good, LeaseLost.
        """
        texts: dict[str, str] = {}
        missing = _Missing()
        async for product in breathing(candidates):
            if product.stored is None:
                missing.add(product)
            else:
                texts[product.product_id] = product.stored
        if missing.products:
            await self._reserve(lease, project, len(missing.products), done=len(texts), total=len(candidates))
            fetch = _Fetch(
                missing,
                self._batch_size,
                ask=partial(self._ask, lease, job),
                record=partial(self._record, lease, job, total=len(candidates)),
                texts=texts,
            )
            await fetch.run(at_once=self._concurrency)
        return texts

    async def _reserve(self, lease: Lease, project: Project, count: int, *, done: int, total: int) -> None:
        now = self._clock.now()
        limit = quota.daily_limit(project.plan, project.ai_daily_limit)
        async with self._database.transaction() as connection:
            if await self._leases.lock_lease(connection, lease):
                await usage.give_back(connection, lease)  # reserved by an attempt that died
            fits = await usage.reserve(connection, lease, project.id, day=now.date(), count=count, limit=limit)
            if not fits:
                used = await usage.used(connection, project.id, now.date())
                shortage = Allowance(limit, used, quota.next_reset(now)).shortage(count)
                raise FailedRun("AI_DAILY_LIMIT_REACHED", shortage)
            state = await executions.set_progress(connection, lease, completed=done, total=total)
        self._publisher.report(state)

    async def _ask(self, lease: Lease, job: Job, products: Sequence[SuggestionCandidate]) -> Mapping[str, str]:
        if not self._leases.holds(lease):  # else two attempts would pay for the same suggestions
            async with self._database.transaction() as connection:
                await self._leases.lock_lease(connection, lease)
        briefs = [ProductBrief(product.product_id, product.title, product.description) for product in products]
        reached(FailPoint.EXECUTOR_BEFORE_AI_REQUEST)
        texts = await self._provider.suggest(SuggestionRequest(job.playbook.field, briefs, job.project_id))
        reached(FailPoint.EXECUTOR_AFTER_AI_REPLY)
        return texts

    async def _record(
        self, lease: Lease, job: Job, arrived: Sequence[Suggestion], *, completed: int, total: int, tell: bool
    ) -> None:
        async with self._database.autocommit() as connection:
            state = await store.record(
                connection,
                lease,
                job.project_id,
                arrived,
                model=self._provider.model,
                completed=completed,
                total=total,
                tell=tell,
            )
        if tell:
            self._publisher.report(state)


class _Missing:
    """The products that have no suggestion: one of each content is asked for."""

    def __init__(self) -> None:
        self.products: list[SuggestionCandidate] = []
        self._alike: defaultdict[bytes, list[SuggestionCandidate]] = defaultdict(list)

    def add(self, product: SuggestionCandidate) -> None:
        """Take in a product."""
        alike = self._alike[product.fingerprint]
        if not alike:
            self.products.append(product)
        alike.append(product)

    def like(self, product: SuggestionCandidate) -> Sequence[SuggestionCandidate]:
        """Return the products of this one's content, itself included."""
        return self._alike[product.fingerprint]


class _Record(Protocol):
    async def __call__(self, arrived: Sequence[Suggestion], *, completed: int, tell: bool) -> None: ...


_Answer = tuple[Sequence[SuggestionCandidate], Mapping[str, str]]


class _Fetch:
    """One run fetching what it misses: some requests under way, one writer for the answers that arrive meanwhile.

    Takes what is missing, how many products go into a request, how to `ask` and how to `record` what arrived, and the
    `texts` to complete.
    """

    def __init__(
        self,
        missing: _Missing,
        batch_size: int,
        *,
        ask: Callable[[Sequence[SuggestionCandidate]], Awaitable[Mapping[str, str]]],
        record: _Record,
        texts: dict[str, str],
    ) -> None:
        self._missing = missing
        products = missing.products
        self._requests = [products[start : start + batch_size] for start in range(0, len(products), batch_size)]
        self._pending = iter(self._requests)
        self._ask = ask
        self._record = record
        self._texts = texts
        self._completed = len(texts)  # products
        self._askers = 0
        self._ahead = asyncio.Semaphore(0)  # requests that may be under way or answered and not stored
        self._arrived: asyncio.Queue[_Answer | None] = asyncio.Queue()
        self._many = asyncio.Event()  # an answer from every asker, or the last one, waits to be stored
        self._failure: AIError | None = None
        self._refusal: AIRefusedError | None = None

    async def run(self, *, at_once: int) -> None:
        """Ask until there is an answer to everything, or one request has failed for good: then those under way
        still come in and are kept, since they are paid for. Raises AIError, LeaseLost, ServiceError."""
        self._askers = min(at_once, len(self._requests))
        # Each may ask on while its last answer is being stored, and no further: a crash loses what is not stored.
        self._ahead = asyncio.Semaphore(2 * self._askers)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._record_arrivals())
                for _ in range(self._askers):
                    tasks.create_task(self._ask_on())
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        if self._failure is None and not self._texts:
            self._failure = self._refusal
        if self._failure is not None:
            raise self._failure

    async def _ask_on(self) -> None:
        for products in self._pending:
            await self._ahead.acquire()
            if self._failure is not None:
                break
            try:
                texts = await self._ask(products)
            except AIRefusedError as error:
                self._refusal, texts = error, error.partial
            except AIError as error:
                self._failure, texts = self._failure or error, error.partial
            self._arrived.put_nowait((products, texts))
            if self._arrived.qsize() >= self._askers:
                self._many.set()
        self._askers -= 1
        if not self._askers:
            self._arrived.put_nowait(None)
            self._many.set()

    async def _record_arrivals(self) -> None:
        clock = asyncio.get_running_loop().time
        tell_at = clock() + PROGRESS_INTERVAL
        answer = await self._arrived.get()
        while answer is not None:
            self._many.clear()
            usable: list[Suggestion] = []
            answers = 0
            while answer is not None:
                usable += self._take(*answer)
                answers += 1
                if self._arrived.empty():
                    break
                answer = self._arrived.get_nowait()
            if tell := clock() >= tell_at:
                tell_at = clock() + PROGRESS_INTERVAL
            if usable or tell:
                await self._record(usable, completed=self._completed, tell=tell)
            for _ in range(answers):
                self._ahead.release()
            if answer is not None:
                # A write for every answer took a seventh of the executor's time.
                with suppress(TimeoutError):
                    async with asyncio.timeout(RECORD_PAUSE):
                        await self._many.wait()
                answer = await self._arrived.get()

    def _take(self, products: Sequence[SuggestionCandidate], texts: Mapping[str, str]) -> Iterator[Suggestion]:
        for product in products:
            # Of every provider, before it is stored: markup and what nobody sees must not get into a shop.
            text = clean_line(texts.get(product.product_id, ""))
            alike = self._missing.like(product)
            if not is_blank(text):
                self._texts.update((one.product_id, text) for one in alike)
                yield Suggestion(product.fingerprint, text)
            self._completed += len(alike)
