"""Why a run does not succeed: what work raises, and a run ends with."""

from typing import Literal


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
