"""The leases under which this process works: kept, renewed, revoked, handed back."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from uuid import UUID

from executor_service.domain.execution import Execution, Lease
from executor_service.metrics import ExecutorMetrics
from executor_service.store.claims import Claims
from servicekit.background.tasks import Ticker
from servicekit.errors import ServiceError
from servicekit.postgres.database import Connection, Database

logger = logging.getLogger(__name__)

HAND_BACK_RETRY = 0.5  # seconds
RENEW_INTERVAL = 1.0  # seconds at most: so soon a process stops work on a run that another process ended


@dataclass(eq=False)
class _Entry:
    """An execution that this process works on."""

    execution: Execution
    task: asyncio.Task[None]
    valid_until: float  # by time.monotonic()
    committing: bool = False


class Leases:
    """The leases of this process, each with the task that works under it.

    A lease stays here until its task is done, also when it is lost: its slot is taken for as long.
    """

    def __init__(self, database: Database, metrics: ExecutorMetrics, *, owner: str, seconds: float) -> None:
        self.owner = owner
        self.seconds = seconds
        self._claims = Claims(database)
        self._metrics = metrics
        self._entries: dict[Lease, _Entry] = {}
        metrics.executing.set_function(lambda: len(self._entries))  # read at each scrape

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Lease]:
        return iter(list(self._entries))

    @property
    def executions(self) -> list[Execution]:
        """The executions that this process works on."""
        return [entry.execution for entry in self._entries.values()]

    @property
    def tasks(self) -> Mapping[asyncio.Task[None], Lease]:
        """The tasks under way, each with its lease."""
        return {entry.task: lease for lease, entry in self._entries.items()}

    # Keeping

    def add(self, execution: Execution, task: asyncio.Task[None]) -> None:
        """Keep the lease of an execution that was claimed just now, until its task is done."""
        self._entries[execution.lease] = _Entry(execution, task, time.monotonic() + self.seconds)
        # Not at the end of the task's own code: a task that is cancelled before its first step never gets there.
        task.add_done_callback(lambda _: self._entries.pop(execution.lease))
        self._metrics.attempted(execution.lease.attempt)

    def holds(self, lease: Lease) -> bool:
        """Whether a lease cannot have run out. False is no proof of the opposite: this process may have stood still."""
        entry = self._entries.get(lease)
        return entry is not None and time.monotonic() < entry.valid_until

    async def lock_lease(self, connection: Connection, lease: Lease) -> int:
        """Make sure that this transaction writes as the owner of the lease, up to its end.

        Returns how many suggestions are still reserved. Raises LeaseLost.
        """
        return await Claims(connection).lock(lease)

    # Renewing and revoking

    async def renew(self) -> None:
        """Renew all leases with one statement, and stop the work under those that are lost. Raises ServiceError."""
        leases = list(self._entries)
        if not leases:
            return
        until = time.monotonic() + self.seconds
        run_ids = [lease.run_id for lease in leases]
        kept = await self._claims.renew(run_ids, owner=self.owner, lease_seconds=self.seconds)
        for lease in leases:
            if (lease.run_id, lease.attempt) not in kept:
                if self._revoke(lease):
                    self._metrics.leases_lost.inc()
            elif entry := self._entries.get(lease):
                entry.valid_until = until

    def revoke(self, run_id: UUID) -> None:
        """Stop the work on an execution that was ended from outside."""
        for lease in self:
            if lease.run_id == run_id:
                self._revoke(lease)

    def mark_committing(self, lease: Lease) -> None:
        """From now on a revocation does not cancel the task: its commit is under way, and the database decides which
        of the two comes first."""
        self._entries[lease].committing = True

    def note_lost(self, lease: Lease) -> None:
        """Note that the database refused a write under this lease."""
        logger.warning("lost the lease on run %s; discarding its result (attempt %d)", lease.run_id, lease.attempt)
        self._metrics.leases_lost.inc()

    def _revoke(self, lease: Lease) -> bool:
        """Stop the work under a lease that is lost; return whether there was any to stop."""
        entry = self._entries.get(lease)
        if not entry or entry.committing:
            return False
        logger.warning("lost the lease on run %s; stopping attempt %d", lease.run_id, lease.attempt)
        return entry.task.cancel()

    # Handing back

    async def hand_back(self, lease: Lease) -> None:
        """Let others take the execution at once. Raises ServiceError."""
        await self._claims.hand_back(lease)

    async def hand_back_when_possible(self, lease: Lease) -> None:
        """Hand back as soon as there is a database again; until then the heartbeat keeps the lease alive."""
        while True:
            await asyncio.sleep(HAND_BACK_RETRY)
            with contextlib.suppress(ServiceError):
                await self.hand_back(lease)
                return

    async def hand_back_unknown(self) -> None:
        """Hand back what is claimed for this process and what it does not know of. Raises ServiceError."""
        known = [lease.run_id for lease in self._entries]
        await self._claims.hand_back_all_but(known, self.owner)


class Heartbeat(Ticker):
    """Renews the leases of this process, often enough to notice a cancel within a second."""

    def __init__(self, leases: Leases) -> None:
        super().__init__(min(leases.seconds / 3, RENEW_INTERVAL))
        self._leases = leases

    async def tick(self) -> None:
        """Renew once."""
        await self._leases.renew()
