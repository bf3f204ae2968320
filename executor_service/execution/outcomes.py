"""Outcomes: what an error makes of a run, and the writer of those that end a run without effects."""

from collections.abc import Sequence

from executor_service.ai.errors import AIError
from executor_service.domain.execution import MAX_ERROR_MESSAGE, Lease, LeaseLost, Outcome, State, Status
from executor_service.domain.failures import FailedRun, StaleRun
from executor_service.store.outcomes import Outcomes
from servicekit.background.batching import Batcher
from servicekit.postgres.database import Database

BATCH = 200  # outcomes in one statement


def deadline_exceeded() -> FailedRun:
    """Return the failure of a run whose deadline passed."""
    return FailedRun(
        "RUN_DEADLINE_EXCEEDED",
        "The run did not end before its deadline, and nothing was changed. Suggestions that had arrived are kept, so a "
        "retry asks only for the rest; give it a longer meta.deadline_seconds if it needs one.",
    )


def outcome_of(error: Exception, *, request_id: str) -> Outcome:
    """Return how a run ends that raised `error`. Of an unknown error the person learns only the request id."""
    match error:
        case StaleRun():
            return Outcome(Status.STALE, error_code=error.code, error_message=_storable(error))
        case FailedRun():
            message = _storable(error)
            return Outcome(Status.FAILED, error_code=error.code, error_message=message, started=error.started)
        case AIError():
            return Outcome(Status.FAILED, error_code=error.code, error_message=_storable(error))
        case _:
            message = (
                "Something went wrong on our side and nothing was changed. Try again; if it happens again, report "
                f"request id {request_id}: the log has the details under it."
            )
            return Outcome(Status.FAILED, error_code="INTERNAL_ERROR", error_message=message)


def _storable(error: Exception) -> str:
    # It may quote a provider. PostgreSQL stores no NUL, UTF-8 no lone surrogate.
    return str(error)[:MAX_ERROR_MESSAGE].replace("\0", "").encode(errors="replace").decode()


class OutcomeWriter(Batcher[tuple[Lease, Outcome], State]):
    """Ends runs that have no effects to write, many with one statement.

    Submit returns the state at the end, or raises LeaseLost, or ServiceError when the database is away.
    """

    def __init__(self, database: Database) -> None:
        super().__init__(self._write, limit=BATCH)
        self._outcomes = Outcomes(database)

    async def _write(self, outcomes: Sequence[tuple[Lease, Outcome]]) -> Sequence[State | LeaseLost]:
        return await self._outcomes.finish(outcomes)
