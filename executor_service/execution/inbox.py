"""The inbox: jobs become rows, each once, and start at once where there is room."""

from collections.abc import Sequence

from playbooks.executor.v1.job_pb2 import RunJob, RunJobBatch

from executor_service import messages
from executor_service.domain.execution import Execution, Job
from executor_service.execution.claimer import Claimer
from executor_service.execution.leases import Leases
from executor_service.execution.slots import Slots
from executor_service.messages import UnreadableJob
from executor_service.store.jobs import Jobs
from servicekit.background.breathing import Breath
from servicekit.broker import DeadLetter
from servicekit.broker.batches import BatchReader
from servicekit.failpoints import FailPoint, reached
from servicekit.postgres.database import Database

JOBS_QUEUE = "jobs"  # after BROKER_QUEUE_PREFIX
RUN_ID = 36  # characters
FOREIGN = "a run of this id is here as another project's; nothing was done"


class Inbox:
    """Stores jobs. A job that is stored already is skipped, so every delivery may be repeated."""

    def __init__(self, database: Database, leases: Leases, slots: Slots, claimer: Claimer) -> None:
        self._jobs = Jobs(database)
        self._leases = leases
        self._slots = slots
        self._claimer = claimer
        self._reader: BatchReader[RunJob] = BatchReader(RunJobBatch, name=lambda job: f"run {job.run_id[:RUN_ID]!r}")

    async def accept(self, jobs: Sequence[Job]) -> list[Job]:
        """Store `jobs`; they are safe when this returns. Raises ServiceError.

        Returns those that are not stored because their run is here as another project's.
        Where nothing waits before them and there is room for all, they are stored as claimed and start at once.
        """
        if not jobs:
            return []
        try:
            stored, claimed = await self._store(jobs)
        except BaseException:
            self._claimer.wake()  # the claim may have been committed; it is handed back
            raise
        reached(FailPoint.EXECUTOR_AFTER_INSERT)
        self._claimer.start_claimed(claimed)
        if stored == len(jobs):
            return []
        return await self._jobs.foreign(jobs)

    async def _store(self, jobs: Sequence[Job]) -> tuple[int, Sequence[Execution]]:
        """Return how many were not here yet, and the executions of those that were stored as claimed."""
        with self._slots.reserve_for_new(len(jobs)) as reserved:
            if reserved:
                owner, seconds = self._leases.owner, self._leases.seconds
                claimed = await self._jobs.enqueue_claimed(jobs, owner=owner, lease_seconds=seconds)
                return len(claimed), claimed
            return await self._jobs.enqueue(jobs), ()

    async def consume(self, bodies: Sequence[bytes]) -> list[DeadLetter]:
        """Store the jobs in broker messages, all with one statement; return what cannot be read.

        Raises ServiceError: deliver them again. The run of a job that cannot be read is not lost: runs_service asks
        about it and finds that it never arrived.
        """
        reached(FailPoint.EXECUTOR_AFTER_TAKE)
        good, dead = await self._reader.read(bodies)
        jobs: list[Job] = []
        refused: list[tuple[RunJob, str]] = []
        breath = Breath()
        for message in good:
            if breath.is_due():
                await breath.taken()
            try:
                jobs.append(messages.job(message))
            except UnreadableJob as error:
                refused.append((message, str(error)))
        refused += [(RunJob.FromString(job.body), FOREIGN) for job in await self.accept(jobs)]
        reached(FailPoint.EXECUTOR_BEFORE_ACK)
        return dead + self._reader.refused(refused)
