"""One watcher's place in what is read for all watchers of its project."""

import asyncio
from collections import deque

from runs_service.store.changes import Page
from servicekit.errors import ServiceError
from servicekit.postgres.snapshots import Snapshot

BUFFER = 1_000  # changes that wait for a watcher; one that lags further behind reads by itself


class ProjectSubscription:
    """Collects pages from the moment of `restart` on. Call `follow` with what was read since, then `next`."""

    def __init__(self, project_id: str) -> None:
        self.project_id = project_id
        self.start: Snapshot | None = None  # where the pages collected begin; None: the first `follow` sets it
        self.reached: Snapshot | None = None  # where they end
        self._pages: deque[Page] = deque()
        self._waiting = 0  # changes
        self._is_behind = False
        self._error: ServiceError | None = None
        self._arrived = asyncio.Event()

    def restart(self, at: Snapshot | None) -> None:
        """Collect from now on; `at` is what was read for the project so far."""
        self.start = self.reached = at
        self._pages = deque()
        self._waiting, self._is_behind = 0, False

    def deliver(self, page: Page) -> None:
        """Take the page that follows the last one, if there is room for it."""
        if self._is_behind:
            return
        if self._waiting + len(page.changes) > BUFFER and self._waiting:
            self._pages, self._is_behind = deque(), True
            self._arrived.set()
            return
        self.reached = page.until
        if page.changes or page.has_expired:
            self._waiting += len(page.changes)
            self._pages.append(page)
            self._arrived.set()

    def is_level(self, seen: Snapshot) -> bool:
        """Whether the pages continue what `seen` sees, so that no change lies between the two."""
        return not self._is_behind and (self.start is None or not self.start.is_later_than(seen))

    async def next(self) -> Page | None:
        """Return the next page; None when this watcher fell behind, and has to read by itself.

        Raises ServiceError when this process has ended the subscription.
        """
        while self._error is None and not self._is_behind and not self._pages:
            self._arrived.clear()
            await self._arrived.wait()
        if self._error:
            raise self._error
        if self._is_behind:
            return None
        page = self._pages.popleft()
        self._waiting -= len(page.changes)
        return page

    @property
    def is_idle(self) -> bool:
        """Whether all pages were taken."""
        return not self._pages and not self._is_behind

    def end(self, error: ServiceError) -> None:
        """Let the watcher's next read raise `error`."""
        self._error = error
        self._arrived.set()
