"""Marking rows of an outbox as published.

A row is published after its commit. One that has no mark after SWEEP_AGE is published again by a sweeper.
"""

from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta

from servicekit.background.batching import Conflator, Key, Value

MARKS = 5_000  # rows marked with one statement
MARK_PAUSE = 0.2  # seconds between two statements; far below SWEEP_AGE
SWEEP_AGE = timedelta(seconds=2)  # younger rows are still being published by the process that committed them


class OutboxMarks(Conflator[Key, Value]):
    """Marks published rows with `mark`, many with one statement.

    No caller waits for a mark. A lost one costs a second publication, which its receiver ignores.
    """

    def __init__(self, mark: Callable[[Mapping[Key, Value]], Awaitable[None]]) -> None:
        super().__init__(limit=MARKS, pause=MARK_PAUSE)
        self._mark = mark

    async def handle(self, batch: Mapping[Key, Value]) -> None:
        """Mark one batch."""
        await self._mark(batch)
