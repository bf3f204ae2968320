"""The way in: jobs become rows, each once, and the executor starts them or is woken."""

from collections.abc import Sequence

from playbooks.executor.v1.job_pb2 import RunJob, RunJobBatch

from executor_service import messages
from executor_service.execution.executor import Executor
from executor_service.messages import UnreadableJob
from executor_service.records import Execution, Job
from executor_service.store import executions
from servicekit.background.breathing import Breath
from servicekit.broker import DeadLetter
from servicekit.broker.batches import BatchReader
from servicekit.failpoints import FailPoint, reached
from servicekit.postgres.database import Database

JOBS_QUEUE = "jobs"  # after BROKER_QUEUE_PREFIX
RUN_ID = 36  # characters
FOREIGN = "a run of this id is here as another project's; nothing was done"


class Inbox:
    """Takes jobs in. A job that is here already is passed over, so every delivery may be repeated."""

    def __init__(self, database: Database, executor: Executor) -> None:
        self._database = database
        self._executor = executor
        self._reader: BatchReader[RunJob] = BatchReader(RunJobBatch, name=lambda job: f"run {job.run_id[:RUN_ID]!r}")

    async def accept(self, jobs: Sequence[Job]) -> list[Job]:
        """Store `jobs`; they are safe when this returns. Raises ServiceError.

        Returns those that are not stored because their run is here as another project's.
        Where nothing waits before them and there is room for all, they are stored as claimed and start at once.
        """
        if not jobs:
            return []
        with self._executor.places(len(jobs)) as places:
            async with self._database.autocommit() as connection:
                if places is None:
                    stored = await executions.enqueue(connection, jobs)
                    started: Sequence[Execution] = ()
                else:
                    started = await executions.enqueue_claimed(
                        connection, jobs, owner=places.owner, lease_seconds=places.lease_seconds
                    )
                    stored = len(started)
        reached(FailPoint.EXECUTOR_AFTER_INSERT)
        self._executor.begin(started)
        if stored == len(jobs):
            return []
        async with self._database.autocommit() as connection:
            return await executions.foreign(connection, jobs)

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
