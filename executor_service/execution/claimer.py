"""The claimer: takes executions from the table while there are free slots, and starts each in the pipeline."""

import asyncio
import contextlib
import logging
import random
from collections.abc import Sequence
from datetime import datetime

from executor_service.domain.execution import Execution
from executor_service.execution.leases import Leases
from executor_service.execution.pipeline import Pipeline
from executor_service.execution.slots import Slots
from executor_service.store.claims import BEGINNING, DOUBTFUL_CRASHES, Claimed, Claims
from servicekit.background.tasks import Worker
from servicekit.clock import Clock
from servicekit.errors import ServiceError
from servicekit.failpoints import FailPoint, reached
from servicekit.postgres.database import Database

logger = logging.getLogger(__name__)

BUSY_POLL = 1.0  # seconds between claims after a claim that got something
IDLE_POLL = 5.0  # seconds between claims otherwise; work that arrives in this process is claimed at once
SPARE_POLL = 0.2  # seconds between claims while only spare slots are free: most claims would get nothing
RACE_POLL = 0.05  # seconds between claims while other processes claim too
BACK_OFF = 1.5  # factor from one fruitless claim to the next


class Claimer(Worker):
    """Claims executions and starts them.

    For `startup_delay` seconds after its start it leaves runs alone that are older than itself: they may have been
    cancelled while no executor lived, and runs_service sends those cancels first.
    When it stops it gives running work `grace_seconds` to end, then hands the leases back.
    """

    def __init__(
        self,
        database: Database,
        leases: Leases,
        slots: Slots,
        pipeline: Pipeline,
        clock: Clock,
        *,
        grace_seconds: float,
        startup_delay: float = 0.0,
    ) -> None:
        super().__init__()
        self._claims = Claims(database)
        self._leases = leases
        self._slots = slots
        self._pipeline = pipeline
        self._clock = clock
        self._grace_seconds = grace_seconds
        self._startup_delay = startup_delay
        self._woken = asyncio.Event()
        self._next_for_spare = 0.0  # when a claim for spare slots is due, by the loop's time

    def wake(self) -> None:
        """Look for work now."""
        self._woken.set()

    # Claiming

    async def run(self) -> None:
        """Claim and start executions until cancelled."""
        self._slots.doubt_claims()
        loop = asyncio.get_running_loop()
        delay_ends, since = loop.time() + self._startup_delay, self._clock.now()
        poll = BUSY_POLL
        while True:
            self._woken.clear()
            if self._slots.take_claims_in_doubt():
                await self._leases.hand_back_unknown()
            if loop.time() >= delay_ends:
                since = BEGINNING
            claimed = await self._claim(since)
            poll = BUSY_POLL if claimed.executions else min(poll * BACK_OFF, IDLE_POLL)
            outrun = claimed.seen > len(claimed.executions)  # another process took some, and there may be more
            # The spread keeps processes that were started together from polling together.
            pause = RACE_POLL if outrun else poll * random.uniform(0.8, 1.0)  # noqa: S311
            if since > BEGINNING:
                pause = min(pause, self._startup_delay)
            if self._has_only_spare:
                pause = min(pause, SPARE_POLL)
            await self._sleep(pause)

    @property
    def _has_only_spare(self) -> bool:
        return self._slots.free > 0 and not self._slots.shared

    async def _claim(self, since: datetime) -> Claimed:
        room, shared = self._slots.free, self._slots.shared
        now = asyncio.get_running_loop().time()
        if room <= 0 or (self._has_only_spare and now < self._next_for_spare):
            self._slots.backlog = True
            return Claimed((), seen=0)
        self._next_for_spare = now + SPARE_POLL
        with self._slots.reserve(room):  # jobs that come in meanwhile must not take the same slots
            claimed = await self._claims.claim(
                owner=self._leases.owner,
                limit=room,
                shared=shared,
                lease_seconds=self._leases.seconds,
                since=since,
                doubtful=0 if any(map(_is_suspect, self._leases.executions)) else 1,
            )
            for execution in claimed.executions:
                self._start(execution)
        # While older runs are left alone, jobs that come in must not overtake them.
        self._slots.backlog = claimed.seen >= room or claimed.held_back > 0 or since > BEGINNING
        return claimed

    async def _sleep(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()

    # Starting

    def start_claimed(self, executions: Sequence[Execution]) -> None:
        """Start executions that were claimed as their jobs came in; without any, look for some."""
        for execution in executions:
            self._start(execution)
        if not executions:
            self.wake()

    def _start(self, execution: Execution) -> None:
        reached(FailPoint.EXECUTOR_AFTER_CLAIM)
        task = asyncio.create_task(self._execute(execution), name=f"run-{execution.lease.run_id}")
        self._leases.add(execution, task)
        task.add_done_callback(lambda _: self._slot_freed(execution))

    async def _execute(self, execution: Execution) -> None:
        if not await self._pipeline.run(execution):
            self.wake()  # it was handed back

    def _slot_freed(self, execution: Execution) -> None:
        if self._slots.backlog or _is_suspect(execution):  # after one suspect the next may run
            self.wake()

    # Stopping

    async def stop(self) -> None:
        """Claim nothing more, let running work end within the grace time, hand back what is left."""
        self._slots.backlog = True
        await super().stop()
        running = self._leases.tasks
        if not running:
            return
        _, late = await asyncio.wait(running, timeout=self._grace_seconds)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)
        for task in late:
            try:
                await self._leases.hand_back(running[task])
            except ServiceError as error:
                logger.warning("run %s waits until its lease runs out: %s", running[task].run_id, error)


def _is_suspect(execution: Execution) -> bool:
    """Whether the run may be what killed its executors. The claimer works on one such run at a time."""
    return execution.crashes >= DOUBTFUL_CRASHES
