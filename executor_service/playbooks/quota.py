"""The AI allowance of a project: its daily limit, what is left of it, and the messages about both."""

from dataclasses import dataclass
from datetime import datetime, time, timedelta
from enum import StrEnum

PRO_DAILY_LIMIT = 100  # suggestions a UTC day


class Plan(StrEnum):
    """What a project pays for."""

    FREE = "FREE"
    PRO = "PRO"
    BUSINESS = "BUSINESS"


def daily_limit(plan: Plan, override: int | None) -> int | None:
    """Return the suggestions a UTC day that a project may ask for; None: any number. FREE has no override."""
    if plan is Plan.FREE:
        return 0
    if override is not None:
        return override
    return PRO_DAILY_LIMIT if plan is Plan.PRO else None


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
        """Whether `count` more suggestions are within the limit."""
        return self.remaining is None or count <= self.remaining

    def shortage(self, needed: int) -> str:
        """Return a message for a person: why `needed` suggestions are too many, and what to do."""
        return (
            f"This needs {needed} AI suggestions and only {self.remaining} of today's {self.limit} are left "
            f"({self.used} are used or reserved by running runs). The allowance resets at "
            f"{self.resets_at:%Y-%m-%d %H:%M} UTC. Wait until then, preview fewer products, or have the "
            "platform raise the project's plan or ai_daily_limit."
        )


def ineligible_plan(project_id: str, plan: Plan) -> str | None:
    """Return a message for a person: why the project's plan gives no AI suggestions. None when it does."""
    if plan is not Plan.FREE:
        return None
    return (
        f"Project {project_id} is on the FREE plan, which has no AI suggestions. "
        "Have the platform change its plan to PRO or BUSINESS, then start the run again."
    )
