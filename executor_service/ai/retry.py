"""Repeating AI requests that may work the next time."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from executor_service.ai.errors import AIError
from servicekit.telemetry.outages import Reminder

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how patiently a request is repeated.

    Waits grow from `base_seconds` by powers of two up to `cap_seconds`, half of each left to chance. The wait that a
    provider asks for replaces it, up to `retry_after_cap_seconds`, so that one header cannot park a run for an hour.

    A rate-limited request is repeated until `until`, without regard to `attempts` and `retry_after_cap_seconds`. Those
    two apply without `until`, and to all other failures.
    """

    attempts: int = 4
    base_seconds: float = 0.5
    cap_seconds: float = 20.0
    retry_after_cap_seconds: float = 30.0
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    random: Callable[[], float] = random.random
    clock: Callable[[], float] = time.monotonic
    reminder: Reminder = field(default_factory=Reminder)

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts is {self.attempts}; at least 1 is needed")

    def wait_seconds(self, attempt: int, retry_after_seconds: float | None = None) -> float:
        """Return how long to wait after the failure of an attempt, counted from 1."""
        if retry_after_seconds is not None:
            # Without the spread, requests that were refused together would be repeated together.
            return retry_after_seconds + self.base_seconds * self.random()
        backoff = min(self.base_seconds * 2.0 ** min(attempt - 1, 32), self.cap_seconds)
        return backoff * (0.5 + 0.5 * self.random())

    async def run(self, operation: Callable[[], Awaitable[T]], *, until: float | None = None) -> T:
        """Await the operation until it returns, fails for good or has used all attempts.

        `until` is when its result is of no use any more, by `clock`. Raises the last `AIError`, with `attempts` set;
        anything else at once.
        """
        tries = failures = turned_away = 0
        while True:
            tries += 1
            try:
                return await operation()
            except AIError as error:
                error.attempts = tries
                if not error.retryable:
                    raise
                if error.turned_away and until is not None:
                    turned_away += 1
                    wait = self._patient_wait(turned_away, error.retry_after_seconds)
                    if self.clock() + wait > until:
                        error.too_late = True
                        raise
                else:
                    failures = 1 if error.progress else failures + 1
                    if failures == self.attempts:
                        raise
                    asked = error.retry_after_seconds
                    wait = self.wait_seconds(failures, None if asked is None else self._capped(asked))
                logger.log(
                    self.reminder.level_for((error.code, error.problem)),
                    "AI request failed (%s, attempt %d%s), next in %.1f s: %s",
                    error.code,
                    tries,
                    "" if error.turned_away and until is not None else f" of {self.attempts}",
                    wait,
                    error.problem,
                )
            # Outside of the except block, so that no traceback is kept alive while waiting.
            await self.sleep(wait)

    def _capped(self, seconds: float) -> float:
        return min(seconds, self.retry_after_cap_seconds)

    def _patient_wait(self, times: int, asked: float | None) -> float:
        """Return the wait after so many refusals. A provider that always asks for 0 s gets growing pauses too."""
        wait = self.wait_seconds(times, asked)
        if asked is None or times <= self.attempts:
            return wait
        return max(wait, self.wait_seconds(times - self.attempts))
