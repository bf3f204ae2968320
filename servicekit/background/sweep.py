"""One query that finds the work of several maintenance tasks."""

from collections.abc import Awaitable, Callable, Collection, Mapping

from servicekit.background.tasks import Ticker

INTERVAL = 5.0  # seconds


class Sweep(Ticker):
    """Every `interval` seconds asks `due` for the names of the tasks that have work, and wakes those.

    They tick at their own start too.
    """

    def __init__(
        self,
        due: Callable[[], Awaitable[Collection[str]]],
        tasks: Mapping[str, Ticker],
        *,
        interval: float = INTERVAL,
    ) -> None:
        super().__init__(interval)
        self._due = due
        self._tasks = tasks

    async def tick(self) -> None:
        """Ask once."""
        for name in await self._due():
            self._tasks[name].wake()
