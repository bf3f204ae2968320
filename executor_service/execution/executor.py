"""The executor: claims executions, keeps their leases, and takes each from its start to its outcome."""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from executor_service import messages
from executor_service.execution.event_publisher import Reporter
from executor_service.execution.outcomes import FailedRun, outcome_of, overdue
from executor_service.records import Execution, Job, Lease, LeaseLost, Outcome, State, Status
from executor_service.store import executions
from executor_service.store.executions import BEGINNING, DOUBTFUL_CRASHES, Claimed
from servicekit.background.batching import Batcher
from servicekit.background.tasks import Ticker, Worker
from servicekit.clock import Clock
from servicekit.errors import ServiceError
from servicekit.failpoints import FailPoint, reached
from servicekit.postgres.database import Connection, Database
from servicekit.telemetry import logs

logger = logging.getLogger(__name__)

MAX_CRASHES = 3  # attempts that ended without a word, after which a run is not tried again
BUSY_POLL = 1.0  # seconds between claims while there has been work lately
IDLE_POLL = 5.0  # seconds between claims otherwise; work that arrives here is claimed at once
RACE_POLL = 0.05  # seconds between claims while other processes claim too
HAND_BACK_RETRY = 0.5  # seconds
NOTICE = 1.0  # seconds until a process notices that a run it works on was ended by another
ENDINGS = 200  # outcomes in one statement

# Writes a run's effects in the transaction that ends it, and says how it ended.
Effect = Callable[[Connection], Awaitable[Outcome]]


class Work(Protocol):
    """What runs of one type do."""

    async def perform(self, lease: Lease, job: Job) -> Outcome | Effect:
        """Do everything up to the last transaction; return what that one is to write besides the outcome, if anything.

        Raises StaleRun, FailedRun, AIError: the run ends so. LeaseLost: nothing more is written. ServiceError:
        the database is away, so the run begins again later.
        """
        ...


@dataclass(eq=False)
class _Running:
    """An execution that this process works on."""

    execution: Execution
    sure_until: float  # by time.monotonic(): so long it is certainly ours
    task: asyncio.Task[None] | None = None
    ending: bool = False  # its outcome is being written: the database decides who wins

    @property
    def doubtful(self) -> bool:
        """Whether it may be what killed its executors; no other such run is worked on beside it."""
        return self.execution.crashes >= DOUBTFUL_CRASHES


@dataclass(frozen=True)
class Places:
    """Room for jobs that came in, to be claimed by `owner` as they are stored."""

    owner: str
    lease_seconds: float


class Executor(Worker):
    """Works on up to `concurrency` executions at once, each under a lease of `lease_seconds`.

    `effects` is the pool of the runs' last transactions, some of which are long: claims and outcomes, over `database`,
    never wait for them.

    For `hold_back_seconds` after its start it leaves runs alone that are older than itself: they may have been
    cancelled while no executor lived, and runs_service tells of that first.
    When it stops it gives running work `grace_seconds` to end, then hands the leases back.
    """

    def __init__(
        self,
        database: Database,
        effects: Database,
        reporter: Reporter,
        work: Callable[[Job], Work],
        *,
        owner: str,
        concurrency: int,
        lease_seconds: float,
        grace_seconds: float,
        clock: Clock,
        hold_back_seconds: float = 0.0,
    ) -> None:
        super().__init__()
        self._clock = clock
        self._hold_back_seconds = hold_back_seconds
        self._database = database
        self._effects = effects
        self._reporter = reporter
        self._work = work
        self._owner = owner
        self._concurrency = concurrency
        self._lease_seconds = lease_seconds
        self._grace_seconds = grace_seconds
        # Outcomes without effects, many with one statement. Runs as long as the executor does, and a moment longer.
        self.endings: Batcher[tuple[Lease, Outcome], State] = Batcher(self._record_endings, limit=ENDINGS)
        self._running: dict[Lease, _Running] = {}
        self._woken = asyncio.Event()
        self._backlog = True  # there may be more to claim than there is room for
        self._promised = 0  # places given to jobs that are being stored
        self._unheard = True  # a claim may have been committed although its answer never came

    # Claiming

    def wake(self) -> None:
        """Look for work now."""
        self._woken.set()

    @contextlib.contextmanager
    def places(self, count: int) -> Iterator[Places | None]:
        """Hold room for `count` jobs that overtake nobody; None when there is none, or others wait already."""
        if self._backlog or self._room < count:
            yield None
            return
        self._promised += count
        try:
            yield Places(self._owner, self._lease_seconds)
        except BaseException:
            self._unheard = True
            self.wake()
            raise
        finally:
            self._promised -= count

    def begin(self, executions: Sequence[Execution]) -> None:
        """Start what was claimed as it was stored, and look for what was not."""
        for execution in executions:
            self._start(execution)
        if not executions:
            self.wake()

    @property
    def _room(self) -> int:
        return self._concurrency - len(self._running) - self._promised

    async def run(self) -> None:
        """Claim and start executions until cancelled."""
        self._unheard = True
        started, since = asyncio.get_running_loop().time(), self._clock.now()
        poll = BUSY_POLL
        while True:
            self._woken.clear()
            if self._unheard and not self._promised:
                await self._hand_back_unheard()
            if asyncio.get_running_loop().time() >= started + self._hold_back_seconds:
                since = BEGINNING
            claimed = await self._claim(since)
            poll = BUSY_POLL if claimed.executions else min(poll * 1.5, IDLE_POLL)
            outrun = claimed.seen > len(claimed.executions)  # somebody else took some, and there may be more
            # The spread keeps processes that were started together from polling together.
            pause = RACE_POLL if outrun else poll * random.uniform(0.8, 1.0)  # noqa: S311
            if since > BEGINNING:
                pause = min(pause, self._hold_back_seconds)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._woken.wait()

    async def _claim(self, since: datetime) -> Claimed:
        room = self._room
        if room <= 0:
            self._backlog = True
            return Claimed((), seen=0)
        self._promised += room  # what comes in meanwhile must not take the same places
        try:
            async with self._database.autocommit() as connection:
                claimed = await executions.claim(
                    connection,
                    owner=self._owner,
                    limit=room,
                    lease_seconds=self._lease_seconds,
                    since=since,
                    doubtful=0 if any(running.doubtful for running in self._running.values()) else 1,
                )
            for execution in claimed.executions:
                self._start(execution)
        finally:
            self._promised -= room
        # While some are held back, those that come in must not overtake them.
        self._backlog = claimed.seen >= room or since > BEGINNING
        return claimed

    async def _hand_back_unheard(self) -> None:
        self._unheard = False
        self._backlog = True  # what came in now and was claimed as it is stored would be handed back as well
        async with self._database.autocommit() as connection:
            await executions.hand_back_all_but(connection, [lease.run_id for lease in self._running], self._owner)

    def _start(self, execution: Execution) -> None:
        reached(FailPoint.EXECUTOR_AFTER_CLAIM)
        running = self._running[execution.lease] = _Running(execution, time.monotonic() + self._lease_seconds)
        running.task = asyncio.create_task(self._execute(running), name=f"run-{execution.lease.run_id}")
        # Not at the end of `_execute`: a task that is cancelled before its first step never gets there.
        running.task.add_done_callback(lambda _: self._leave(execution.lease))

    def _leave(self, lease: Lease) -> None:
        running = self._running.pop(lease)
        if self._backlog or running.doubtful:
            self.wake()

    # Executing

    async def _execute(self, running: _Running) -> None:
        lease = running.execution.lease
        try:
            self._report(await self._carry_out(running))
        except LeaseLost:
            logger.warning("run %s is not ours any more; attempt %d writes nothing", lease.run_id, lease.attempt)
        except ServiceError as error:
            logger.warning("run %s is interrupted: %s", lease.run_id, error)
            await self._hand_back(lease)

    async def _carry_out(self, running: _Running) -> State:
        """Take an execution to its outcome. Raises LeaseLost, and ServiceError when the database is away."""
        execution, lease = running.execution, running.execution.lease
        try:
            job = self._record_started(running)
            self._guard(execution)
            async with self._deadline(job):
                ending = await self._work(job).perform(lease, job)
            running.ending = True
            if not isinstance(ending, Outcome):
                return await self._take_effect(lease, job, ending)
        except (LeaseLost, ServiceError):
            raise
        except Exception as error:
            running.ending = True
            ending = _failure(error)
        return await self.endings.submit((lease, ending))

    def _record_started(self, running: _Running) -> Job:
        execution = running.execution
        job = messages.job_from(execution.job_body)
        logs.bind(request_id=job.request_id, run_id=str(job.run_id), project_id=job.project_id)
        if execution.crashes < MAX_CRASHES:
            logger.info("[AutomationPlaybookRunProcessor] Processing run %s", job.run_id)
            self._reporter.report_soon(execution.state)
        return job

    def _guard(self, execution: Execution) -> None:
        if execution.crashes >= MAX_CRASHES:
            raise FailedRun(
                "MAX_ATTEMPTS_EXCEEDED",
                f"The run was started {MAX_CRASHES} times and its executor died each time; it is not tried again. "
                "Nothing was changed. Look for what the executors logged about it before you retry it.",
            )

    @contextlib.asynccontextmanager
    async def _deadline(self, job: Job) -> AsyncIterator[None]:
        """Keep a run's deadline within the block. Raises FailedRun when it passes."""
        seconds_left = max((job.deadline - self._clock.now()).total_seconds(), 0) if job.deadline else None
        try:
            async with asyncio.timeout(seconds_left) as deadline:
                yield
        except TimeoutError:
            if deadline.expired():
                raise overdue() from None
            raise

    async def _take_effect(self, lease: Lease, job: Job, effect: Effect) -> State:
        async with self._effects.transaction() as connection:
            async with self._deadline(job):  # not the commit: whether one took place that was broken off, nobody knows
                await executions.hold(connection, lease)
                (state,) = await executions.finish(connection, [(lease, await effect(connection))])
            if isinstance(state, LeaseLost):
                raise state
            reached(FailPoint.EXECUTOR_BEFORE_COMMIT)
        reached(FailPoint.EXECUTOR_AFTER_COMMIT)
        return state

    async def _record_endings(self, endings: Sequence[tuple[Lease, Outcome]]) -> Sequence[State | LeaseLost]:
        async with self._database.autocommit() as connection:
            return await executions.finish(connection, endings)

    def _report(self, state: State) -> None:
        if state.status is Status.SUCCEEDED:
            ai_used = str(state.ai_used).lower()
            logger.info(
                "[AutomationPlaybookRunProcessor] Run %s completed successfully (aiUsed=%s)", state.run_id, ai_used
            )
        else:
            logger.warning(
                "[AutomationPlaybookRunProcessor] Run %s ended %s (%s): %s",
                state.run_id,
                state.status.value,
                state.error_code,
                state.error_message,
            )
        self._reporter.report(state)

    # Leases

    def leases(self) -> list[Lease]:
        """Return the leases this process works under."""
        return list(self._running)

    def is_sure_of(self, lease: Lease) -> bool:
        """Whether a lease cannot have ended. After a time in which this process stood still nothing is sure."""
        running = self._running.get(lease)
        return running is not None and time.monotonic() < running.sure_until

    def renewed(self, lease: Lease, until: float) -> None:
        """Be sure of a lease until then."""
        if running := self._running.get(lease):
            running.sure_until = until

    def abandon(self, run_id: UUID, attempt: int | None = None) -> None:
        """Stop working on an execution that is not ours any more: `attempt` lost its lease, or somebody ended it."""
        for lease, running in self._running.items():
            if lease.run_id == run_id and attempt in (None, lease.attempt) and running.task and not running.ending:
                logger.warning("run %s is not ours any more; attempt %d stops", run_id, lease.attempt)
                running.task.cancel()

    async def stop(self) -> None:
        """Claim nothing more, let running work end within the grace time, hand back what is left."""
        self._backlog = True
        await super().stop()
        tasks = {running.task: lease for lease, running in self._running.items() if running.task}
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=self._grace_seconds)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)
        for task in late:
            try:
                async with self._database.autocommit() as connection:
                    await executions.hand_back(connection, tasks[task])
            except ServiceError as error:
                logger.warning("run %s is free when its lease ends: %s", tasks[task].run_id, error)

    async def _hand_back(self, lease: Lease) -> None:
        while True:  # under its lease, which the heartbeat keeps alive as soon as there is a database
            await asyncio.sleep(HAND_BACK_RETRY)
            with contextlib.suppress(ServiceError):
                async with self._database.autocommit() as connection:
                    await executions.hand_back(connection, lease)
                self.wake()
                return


def _failure(error: Exception) -> Outcome:
    outcome = outcome_of(error, request_id=logs.bound("request_id"))
    if outcome.error_code == "INTERNAL_ERROR":
        logger.error("a run failed", exc_info=error)
    return outcome


class Heartbeat(Ticker):
    """Renews all leases of this process with one statement, often enough to notice a cancel within a second."""

    def __init__(self, database: Database, executor: Executor, *, owner: str, lease_seconds: float) -> None:
        super().__init__(min(lease_seconds / 3, NOTICE))
        self._database = database
        self._executor = executor
        self._owner = owner
        self._lease_seconds = lease_seconds

    async def tick(self) -> None:
        """Renew, and stop what is not ours any more."""
        leases = self._executor.leases()
        if not leases:
            return
        until = time.monotonic() + self._lease_seconds
        async with self._database.autocommit() as connection:
            kept = await executions.renew(
                connection,
                [lease.run_id for lease in leases],
                owner=self._owner,
                lease_seconds=self._lease_seconds,
            )
        for lease in leases:
            if (lease.run_id, lease.attempt) in kept:
                self._executor.renewed(lease, until)
            else:
                self._executor.abandon(lease.run_id, lease.attempt)
