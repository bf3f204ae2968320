"""An executor whose runs do what a test says: for what happens to runs whatever their work is."""

import asyncio

from executor_service.domain.ai_usage import UsageMeter
from executor_service.domain.execution import Job, Lease, Outcome, Status
from executor_service.execution.claimer import Claimer
from executor_service.execution.types import Effect
from servicekit.postgres.database import Database
from tests.support.executor import Bench
from tests.support.waiting import eventually

FRUITLESS = 5  # claims without work after which the claimer waits as long as it ever does


class StagedWork:
    """Work that waits until `open` is set, raises `errors`, one an attempt, and then has `effect`, or just succeeds."""

    def __init__(self) -> None:
        self.begun: list[Lease] = []
        self.open = asyncio.Event()
        self.errors: list[Exception] = []
        self.effect: Effect | None = None

    async def perform(self, lease: Lease, job: Job, usage: UsageMeter) -> Outcome | Effect:
        self.begun.append(lease)
        await self.open.wait()
        if self.errors:
            raise self.errors.pop()
        return self.effect or Outcome(Status.SUCCEEDED)


class Stage(Bench):
    """An executor with staged work."""

    def __init__(self, url: str, *, concurrency: int = 4) -> None:
        self.staged = StagedWork()
        super().__init__(url, concurrency=concurrency)

    def work(self, job: Job) -> StagedWork:
        return self.staged

    def claimer_over(self, database: Database, *, startup_delay: float = 0.0) -> Claimer:
        """Return another claimer of this executor, which claims over `database`."""
        return Claimer(
            database,
            self.leases,
            self.slots,
            self.pipeline,
            self.clock,
            grace_seconds=0,
            startup_delay=startup_delay,
        )

    async def claim_in_vain(self) -> None:
        """Have the claimer look for work, where there is none, until it waits for long before it looks again."""
        for _ in range(FRUITLESS):
            self.slots.backlog = True
            self.claimer.wake()
            await eventually(lambda: not self.slots.backlog)

    async def attempts(self) -> list[tuple[str, int, int]]:
        """Return the status, the attempt and the crashes of each run."""
        found = await self.rows("SELECT status, attempt, crashes FROM executor.executions")
        return [tuple(row) for row in found]

    async def all_succeeded(self) -> bool:
        return all(status == "SUCCEEDED" for status, *_ in await self.attempts())
