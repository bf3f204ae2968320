"""The way in: jobs become rows, each once, and the executor is woken."""

from collections.abc import Callable, Sequence

from google.protobuf.message import DecodeError
from playbooks.executor.v1.job_pb2 import RunJobBatch

from executor_service import messages
from executor_service.messages import UnreadableJob
from executor_service.records import Job
from executor_service.store import executions
from servicekit.broker import DeadLetter
from servicekit.database import Database
from servicekit.failpoints import FailPoint, reached

JOBS_QUEUE = "jobs"  # after BROKER_QUEUE_PREFIX


class Inbox:
    """Takes jobs in. A job that is here already is passed over, so every delivery may be repeated."""

    def __init__(self, database: Database, *, wake: Callable[[], None]) -> None:
        self._database = database
        self._wake = wake

    async def accept(self, jobs: Sequence[Job]) -> None:
        """Store `jobs`; they are safe when this returns. Raises ServiceError."""
        if not jobs:
            return
        async with self._database.autocommit() as connection:
            await executions.enqueue(connection, jobs)
        reached(FailPoint.EXECUTOR_AFTER_INSERT)
        self._wake()

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
