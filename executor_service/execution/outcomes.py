"""Why a run does not succeed, and the one place that turns it into an outcome."""

from typing import Literal

from executor_service.ai.errors import AIError
from executor_service.records import MAX_ERROR_MESSAGE, Outcome, Status


class StaleRun(Exception):
    """The world changed under the run: a new preview is needed."""

    def __init__(
        self,
        code: Literal[
            "PLAYBOOK_SCOPE_INVALID", "PLAYBOOK_RULES_CHANGED", "PLAYBOOK_DRAFT_NOT_FOUND", "PLAYBOOK_DRAFT_EXPIRED"
        ],
        message: str,
    ) -> None:
        super().__init__(message)
        self.code = code


class FailedRun(Exception):
    """The run cannot do its work."""

    def __init__(
        self,
        code: Literal[
            "PROJECT_NOT_FOUND",
            "PLAN_NOT_ELIGIBLE",
            "AI_DAILY_LIMIT_REACHED",
            "MAX_ATTEMPTS_EXCEEDED",
            "RUN_DEADLINE_EXCEEDED",
        ],
        message: str,
    ) -> None:
        super().__init__(message)
        self.code = code


def overdue() -> FailedRun:
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
        case FailedRun() | AIError():
            return Outcome(Status.FAILED, error_code=error.code, error_message=_storable(error))
        case _:
            message = (
                "Something went wrong on our side and nothing was changed. Try again; if it happens again, report "
                f"request id {request_id}: the log has the details under it."
            )
            return Outcome(Status.FAILED, error_code="INTERNAL_ERROR", error_message=message)


def _storable(error: Exception) -> str:
    # A provider's words may be in it. PostgreSQL stores no NUL, UTF-8 no lone surrogate.
    return str(error)[:MAX_ERROR_MESSAGE].replace("\0", "").encode(errors="replace").decode()
