"""What a project's runs were and cost: the report, and the upkeep of its days."""

from collections.abc import Iterable, Sequence
from datetime import date

from playbooks.runs.v1.run_pb2 import AiUsage, Run
from playbooks.runs.v1.runs_service_pb2 import DailyUsage, GetUsageResponse, UsageSummary

from runs_service.store import RunStore
from runs_service.store.usage import Used
from servicekit.background.tasks import Ticker
from servicekit.clock import Clock
from servicekit.errors import Reason, ServiceError

DEFAULT_DAYS = 30  # of a report, both ends included
MAX_DAYS = 366
FOLD_INTERVAL = 60.0  # seconds; reports are exact whenever it happens
FOLD_BATCH = 10_000  # rows


class UsageReports:
    """Makes reports."""

    def __init__(self, store: RunStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def report(self, project_id: str, first_day: str, last_day: str) -> GetUsageResponse:
        """Return what a project's runs were from a first to a last day, each as 2026-11-23 or "" for the default.

        Raises ServiceError (VALIDATION_FAILED): one is no day, they are in the wrong order, or over 366 days.
        """
        last = _day(last_day, "to") if last_day else self._clock.now().date()
        first = _day(first_day, "from") if first_day else _before(last, DEFAULT_DAYS - 1)
        if first > last:
            raise _refused(f"must not be after `to`, which is {last}", "from")
        if (last - first).days >= MAX_DAYS:
            raise _refused(f"must be at most {MAX_DAYS - 1} days before `to`, which is {last}", "from")
        days = await self._store.usage.by_day(project_id, first, last)
        response = GetUsageResponse(to=last.isoformat(), summary=_summary(days))
        setattr(response, "from", first.isoformat())  # a word of Python's own
        response.days.extend(
            DailyUsage(
                day=used.day.isoformat(),
                run_type=Run.Type.Value(used.run_type),
                runs=used.runs,
                ai_runs=used.ai_runs,
                ai_usage=used.ai_usage,
            )
            for used in days
        )
        return response


class UsageFolder(Ticker):
    """Folds what ended runs have appended into their days. Any number of processes may do so at the same time."""

    def __init__(self, store: RunStore, *, interval: float = FOLD_INTERVAL, batch: int = FOLD_BATCH) -> None:
        super().__init__(interval)
        self._store = store
        self._batch = batch

    async def tick(self) -> None:
        """Fold one batch."""
        if await self._store.usage.fold(limit=self._batch) == self._batch:
            self.wake()


def _summary(days: Sequence[Used]) -> UsageSummary:
    def runs(run_type: str) -> int:
        return sum(used.runs for used in days if used.run_type == run_type)

    return UsageSummary(
        total_runs=sum(used.runs for used in days),
        ai_runs=sum(used.ai_runs for used in days),
        previews=runs("PREVIEW_GENERATE"),
        drafts=runs("DRAFT_GENERATE"),
        applies=runs("APPLY"),
        applies_with_ai=sum(used.ai_runs for used in days if used.run_type == "APPLY"),
        ai_usage=_sum(used.ai_usage for used in days),
    )


def _sum(usages: Iterable[AiUsage]) -> AiUsage:
    total = AiUsage()
    for usage in usages:
        total.requests += usage.requests
        total.suggestions += usage.suggestions
        total.reused += usage.reused
        total.input_tokens += usage.input_tokens
        total.cached_input_tokens += usage.cached_input_tokens
        total.output_tokens += usage.output_tokens
    return total


def _day(text: str, field: str) -> date:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        day = None
    if day is None or day.isoformat() != text:  # it reads other spellings, too
        raise _refused("must be a day such as 2026-11-23", field)
    return day


def _before(day: date, days: int) -> date:
    return date.fromordinal(max(day.toordinal() - days, 1))


def _refused(problem: str, field: str) -> ServiceError:
    return ServiceError(Reason.VALIDATION_FAILED, problem, field=field)
