"""The inbox: jobs become rows, each once, and start at once where there is room."""

from collections.abc import Sequence

from google.protobuf.message import DecodeError
from playbooks.executor.v1.job_pb2 import RunJobBatch

from executor_service import messages
from executor_service.domain.execution import Execution, Job
from executor_service.execution.claimer import Claimer
from executor_service.execution.leases import Leases
from executor_service.execution.slots import Slots
from executor_service.messages import UnreadableJob
from executor_service.store import executions
from servicekit.broker import DeadLetter
from servicekit.failpoints import FailPoint, reached
from servicekit.postgres.database import Database

JOBS_QUEUE = "jobs"  # after BROKER_QUEUE_PREFIX


class Inbox:
    """Takes jobs in. A job that is here already is skipped, so every delivery may be repeated."""

    def __init__(self, database: Database, leases: Leases, slots: Slots, claimer: Claimer) -> None:
        self._database = database
        self._leases = leases
        self._slots = slots
        self._claimer = claimer

    async def accept(self, jobs: Sequence[Job]) -> None:
        """Store `jobs`; they are safe when this returns. Raises ServiceError.

        Where nothing waits before them and there is room for all, they are stored as claimed and start at once.
        """
        if not jobs:
            return
        try:
            claimed = await self._store(jobs)
        except BaseException:
            self._claimer.wake()  # the claim may have been committed; it is handed back
            raise
        reached(FailPoint.EXECUTOR_AFTER_INSERT)
        self._claimer.start_claimed(claimed)

    async def _store(self, jobs: Sequence[Job]) -> Sequence[Execution]:
        with self._slots.reserve_for_new(len(jobs)) as reserved:
            async with self._database.autocommit() as connection:
                if reserved:
                    owner, seconds = self._leases.owner, self._leases.seconds
                    return await executions.enqueue_claimed(connection, jobs, owner=owner, lease_seconds=seconds)
                await executions.enqueue(connection, jobs)
                return ()

    async def consume(self, bodies: Sequence[bytes]) -> list[DeadLetter]:
        """Store the jobs in broker messages, all with one statement; return what cannot be read.

        Raises ServiceError: deliver them again. The run of a job that cannot be read is not lost: runs_service asks
        about it and finds that it never arrived.
        """
        reached(FailPoint.EXECUTOR_AFTER_TAKE)
        jobs: list[Job] = []
        dead: list[DeadLetter] = []
        for body in bodies:
            try:
                batch = RunJobBatch.FromString(body).jobs
            except DecodeError as error:
                dead.append(DeadLetter(body, str(error)))
                continue
            for message in batch:
                try:
                    jobs.append(messages.job(message))
                except UnreadableJob as error:
                    reason = f"run {message.run_id}: {error}"
                    dead.append(DeadLetter(RunJobBatch(jobs=[message]).SerializeToString(), reason))
        await self.accept(jobs)
        reached(FailPoint.EXECUTOR_BEFORE_ACK)
        return dead
