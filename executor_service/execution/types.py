"""What runs do, as the pipeline sees it."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from executor_service.domain.ai_usage import UsageMeter
from executor_service.domain.execution import Job, Lease, Outcome
from servicekit.postgres.database import Connection

# Writes a run's effects in the transaction that ends it, and returns how it ended.
Effect = Callable[[Connection], Awaitable[Outcome]]


class Work(Protocol):
    """What runs of one type do."""

    async def perform(self, lease: Lease, job: Job, usage: UsageMeter) -> Outcome | Effect:
        """Do everything up to the last transaction; return what that one writes besides the outcome, if anything.

        What is asked of the AI provider is counted by `usage`, which goes into the outcome however the run ends.
        Raises StaleRun, FailedRun, AIError: the run ends so. LeaseLost: nothing more is written. ServiceError:
        the database is away, and the run starts again later.
        """
        ...
