"""Repeating AI requests that may work the next time."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from executor_service.ai.errors import AIError

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how patiently a request is repeated.

    Waits grow from `base_seconds` by powers of two up to `cap_seconds`, half of each left to chance. A provider's
    Retry-After replaces the wait, up to `retry_after_cap_seconds`, so that one header cannot park a run for an hour.
    """

    attempts: int = 4
    base_seconds: float = 0.5
    cap_seconds: float = 20.0
    retry_after_cap_seconds: float = 30.0
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    random: Callable[[], float] = random.random

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts is {self.attempts}; at least 1 is needed")

    def wait_seconds(self, attempt: int, retry_after_seconds: float | None = None) -> float:
        """Return how long to wait after the failure of an attempt, counted from 1."""
        if retry_after_seconds is not None:
            # The spread keeps requests that were turned away together from coming back together.
            return min(retry_after_seconds, self.retry_after_cap_seconds) + self.base_seconds * self.random()
        backoff = min(self.base_seconds * 2.0 ** (attempt - 1), self.cap_seconds)
        return backoff * (0.5 + 0.5 * self.random())

    async def run(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Await the operation until it returns, fails for good or has used all attempts.

        Raises the last `AIError`, with `attempts` set; anything else at once.
        """
        attempt = 1
        while True:
            try:
                return await operation()
            except AIError as error:
                error.attempts = attempt
                if not error.retryable or attempt == self.attempts:
                    raise
                wait = self.wait_seconds(attempt, error.retry_after_seconds)
                logger.warning(
                    "AI request failed (%s, attempt %d of %d), next in %.1f s: %s",
                    error.code,
                    attempt,
                    self.attempts,
                    wait,
                    error.problem,
                )
            # Outside of the except block, so that no traceback is kept alive while waiting.
            await self.sleep(wait)
            attempt += 1
