"""The AI allowance of a project: how much a UTC day, what is left, and how to say so."""

from dataclasses import dataclass
from datetime import datetime, time, timedelta

from executor_service.execution.outcomes import FailedRun
from executor_service.records import Plan, Project

PRO_DAILY_LIMIT = 100  # suggestions a UTC day


def daily_limit(project: Project) -> int | None:
    """Return the suggestions a UTC day that the project may ask for; None: any number."""
    if project.plan is Plan.FREE:
        return 0
    if project.ai_daily_limit is not None:
        return project.ai_daily_limit
    return PRO_DAILY_LIMIT if project.plan is Plan.PRO else None


def next_reset(now: datetime) -> datetime:
    """Return the next UTC midnight."""
    return datetime.combine(now.date() + timedelta(days=1), time(), now.tzinfo)


@dataclass(frozen=True, slots=True)
class Allowance:
    """A project's allowance of one UTC day, in suggestions."""

    limit: int | None  # None: unlimited
    used: int  # or reserved by running runs
    resets_at: datetime

    @property
    def remaining(self) -> int | None:
        """What is left; None: unlimited."""
        return None if self.limit is None else max(self.limit - self.used, 0)

    def fits(self, count: int) -> bool:
        """Tell whether `count` more suggestions are within the limit."""
        return self.remaining is None or count <= self.remaining

    def shortage(self, needed: int) -> str:
        """Say, to a person, why `needed` suggestions are too many and what to do."""
        return (
            f"This needs {needed} AI suggestions and only {self.remaining} of today's {self.limit} are left "
            f"({self.used} are used or reserved by running runs). The allowance resets at "
            f"{self.resets_at:%Y-%m-%d %H:%M} UTC. Wait until then, preview fewer products, or have the "
            "platform raise the project's plan or ai_daily_limit."
        )


def ineligible_plan(project: Project) -> str | None:
    """Say, to a person, why the project's plan gives no AI suggestions; None when it does."""
    if project.plan is not Plan.FREE:
        return None
    return (
        f"Project {project.id} is on the FREE plan, which has no AI suggestions. "
        "Have the platform change its plan to PRO or BUSINESS, then start the run again."
    )


def limit_reached(allowance: Allowance, needed: int) -> FailedRun:
    """Return the failure of a run that does not fit into the allowance."""
    return FailedRun("AI_DAILY_LIMIT_REACHED", allowance.shortage(needed))
