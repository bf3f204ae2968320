"""Getting suggestions: those that were paid for before, and the missing ones from the provider."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Protocol

from executor_service.ai.errors import AIBatchError, AIError, AIRefusedError
from executor_service.ai.provider import Answers, ProductBrief, SuggestionProvider, SuggestionRequest
from executor_service.ai.text import clean_line
from executor_service.execution.event_publisher import Reporter
from executor_service.playbooks import quota
from executor_service.playbooks.playbook import is_blank
from executor_service.playbooks.quota import Allowance
from executor_service.records import Job, Lease, Project, Suggested, Wanted
from executor_service.store import executions, usage
from executor_service.store import suggestions as store
from servicekit.background.breathing import breathing
from servicekit.clock import Clock
from servicekit.failpoints import FailPoint, reached
from servicekit.postgres.database import Database

RECORD_PAUSE = 0.02  # seconds between two writes of what arrived
PROGRESS_INTERVAL = 0.25  # seconds between two progress reports of a run
PATIENCE = 0.95  # of the time until a run's deadline may be waited for the provider; an answer takes a moment too
FRUITLESS = 5  # requests without one usable text, in a run that has none: those after them would not do better
EMPTY_TEXT = "The AI provider answered with an empty text for this product."


class Suggestions:
    """Gets suggestions for runs. Takes how many products go into a request, and how many requests of one run may be
    under way; the provider bounds those of all runs together. `is_sure_of` tells whether a lease cannot have ended."""

    def __init__(
        self,
        database: Database,
        provider: SuggestionProvider,
        reporter: Reporter,
        clock: Clock,
        *,
        batch_size: int,
        concurrency: int,
        is_sure_of: Callable[[Lease], bool],
    ) -> None:
        self._is_sure_of = is_sure_of
        self._database = database
        self._provider = provider
        self._reporter = reporter
        self._clock = clock
        self._batch_size = batch_size
        self._concurrency = concurrency

    async def get(self, lease: Lease, job: Job, project: Project, wanted: Sequence[Wanted]) -> Answers:
        """Return the usable suggestions by product id, and for each other product why it has none.

        What is missing is reserved from the project's allowance, asked for, and stored as it arrives; products of the
        same content share one suggestion. Raises FailedRun when it does not fit, AIError when the provider fails for
        good or nothing usable came, LeaseLost.
        """
        texts: dict[str, str] = {}
        reasons: dict[str, str] = {}
        missing = _Missing()
        async for product in breathing(wanted):
            if product.stored is None:
                missing.add(product)
            else:
                texts[product.product_id] = product.stored
        if missing.products:
            await self._reserve(lease, project, len(missing.products), done=len(texts), total=len(wanted))
            conversation = _Conversation(
                missing,
                self._batch_size,
                ask=partial(self._ask, lease, job),
                record=partial(self._record, lease, job, total=len(wanted)),
                texts=texts,
                reasons=reasons,
            )
            await conversation.hold(at_once=self._concurrency)
        return Answers(texts, reasons)

    async def _reserve(self, lease: Lease, project: Project, count: int, *, done: int, total: int) -> None:
        now = self._clock.now()
        limit = quota.daily_limit(project)
        async with self._database.transaction() as connection:
            if await executions.hold(connection, lease):
                await usage.give_back(connection, lease)  # what an attempt that died had reserved
            fits = await usage.reserve(connection, lease, project.id, day=now.date(), count=count, limit=limit)
            if not fits:
                used = await usage.used(connection, project.id, now.date())
                raise quota.limit_reached(Allowance(limit, used, quota.next_reset(now)), count)
            state = await executions.set_progress(connection, lease, completed=done, total=total)
        self._reporter.report(state)

    async def _ask(self, lease: Lease, job: Job, products: Sequence[Wanted]) -> Answers:
        if not self._is_sure_of(lease):  # what another attempt asks for already is not paid for again
            async with self._database.transaction() as connection:
                await executions.hold(connection, lease)
        briefs = [ProductBrief(product.product_id, product.title, product.description) for product in products]
        reached(FailPoint.EXECUTOR_BEFORE_AI_REQUEST)
        patience = None
        if job.deadline:
            patience = max((job.deadline - self._clock.now()).total_seconds(), 0.0) * PATIENCE
        answers = await self._provider.suggest(
            SuggestionRequest(job.playbook.field, briefs, job.project_id, patience_seconds=patience)
        )
        reached(FailPoint.EXECUTOR_AFTER_AI_REPLY)
        return answers

    async def _record(
        self, lease: Lease, job: Job, arrived: Sequence[Suggested], *, completed: int, total: int, tell: bool
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
            self._reporter.report(state)


class _Missing:
    """The products that have no suggestion: one of each content is asked for."""

    def __init__(self) -> None:
        self.products: list[Wanted] = []
        self._alike: defaultdict[bytes, list[Wanted]] = defaultdict(list)

    def add(self, product: Wanted) -> None:
        """Take in a product."""
        alike = self._alike[product.fingerprint]
        if not alike:
            self.products.append(product)
        alike.append(product)

    def like(self, product: Wanted) -> Sequence[Wanted]:
        """Return the products of this one's content, itself included."""
        return self._alike[product.fingerprint]


class _Record(Protocol):
    async def __call__(self, arrived: Sequence[Suggested], *, completed: int, tell: bool) -> None: ...


_Answer = tuple[Sequence[Wanted], Answers]


class _Conversation:
    """One run asking for what it misses: some requests under way, one writer for what arrives meanwhile.

    Takes what is missing, how many products go into a request, how to `ask` and how to `record` what arrived, and the
    `texts` and `reasons` to complete.
    """

    def __init__(
        self,
        missing: _Missing,
        batch_size: int,
        *,
        ask: Callable[[Sequence[Wanted]], Awaitable[Answers]],
        record: _Record,
        texts: dict[str, str],
        reasons: dict[str, str],
    ) -> None:
        self._missing = missing
        products = missing.products
        self._requests = [products[start : start + batch_size] for start in range(0, len(products), batch_size)]
        self._pending = iter(self._requests)
        self._ask = ask
        self._record = record
        self._texts = texts
        self._reasons = reasons
        self._askers = 0
        self._ahead = asyncio.Semaphore(0)  # requests that may be under way or answered and not stored
        self._arrived: asyncio.Queue[_Answer | None] = asyncio.Queue()
        self._many = asyncio.Event()  # an answer from every asker, or the last one, waits to be stored
        self._failure: AIError | None = None
        self._unanswered: AIBatchError | None = None  # of a request that got nothing, and says so of its products only
        self._fruitless = 0

    async def hold(self, *, at_once: int) -> None:
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
            self._failure = self._unanswered
        if self._failure is not None:
            raise self._failure

    async def _ask_on(self) -> None:
        for products in self._pending:
            await self._ahead.acquire()
            if self._failure is not None:
                break
            try:
                answers = await self._ask(products)
            except AIBatchError as error:
                answers = Answers(reasons=dict.fromkeys((product.product_id for product in products), error.reason))
                self._note(error)
            except AIError as error:
                self._failure, answers = self._failure or error, Answers(error.partial)
            self._arrived.put_nowait((products, answers))
            if self._arrived.qsize() >= self._askers:
                self._many.set()
        self._askers -= 1
        if not self._askers:
            self._arrived.put_nowait(None)
            self._many.set()

    def _note(self, error: AIBatchError) -> None:
        self._unanswered = error
        self._fruitless += 1
        # What a filter refuses says nothing of the products after it.
        if not self._texts and self._fruitless >= FRUITLESS and not isinstance(error, AIRefusedError):
            self._failure = self._failure or error

    @property
    def _completed(self) -> int:
        """Products that are done: none of them as long as nothing usable came, since the run may fail of that."""
        return len(self._texts) + (len(self._reasons) if self._texts else 0)

    async def _record_arrivals(self) -> None:
        clock = asyncio.get_running_loop().time
        tell_at = clock() + PROGRESS_INTERVAL
        answer = await self._arrived.get()
        while answer is not None:
            self._many.clear()
            usable: list[Suggested] = []
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

    def _take(self, products: Sequence[Wanted], answers: Answers) -> Iterator[Suggested]:
        for product in products:
            alike = self._missing.like(product)
            if product.product_id in answers.texts:
                # Of every provider, before it is stored: markup and what nobody sees must not get into a shop.
                text = clean_line(answers.texts[product.product_id])
                if not is_blank(text):
                    self._texts.update((one.product_id, text) for one in alike)
                    yield Suggested(product.fingerprint, text)
                    continue
            elif product.product_id not in answers.reasons:
                continue  # its request failed before it was answered
            reason = answers.reasons.get(product.product_id, EMPTY_TEXT)
            self._reasons.update((one.product_id, reason) for one in alike)
