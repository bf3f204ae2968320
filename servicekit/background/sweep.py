"""Looking for what was left behind: one look for everything, where each who sees to something would look by itself."""

from collections.abc import Awaitable, Callable, Collection, Mapping

from servicekit.background.tasks import Ticker

INTERVAL = 5.0  # seconds


class Sweep(Ticker):
    """Every `interval` seconds asks `due` for the names of what there is to do, and wakes those who see to it.

    They tick at their own start too. What a round of theirs leaves, the next look finds.
    """

    def __init__(
        self,
        due: Callable[[], Awaitable[Collection[str]]],
        sees_to: Mapping[str, Ticker],
        *,
        interval: float = INTERVAL,
    ) -> None:
        super().__init__(interval)
        self._due = due
        self._sees_to = sees_to

    async def tick(self) -> None:
        """Look once."""
        for name in await self._due():
            self._sees_to[name].wake()
