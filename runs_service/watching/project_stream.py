"""One watcher's stream of a project: the newest runs, changes, bookmarks."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2 import WatchRunsResponse

from runs_service.store import Change, Filters, RunStore
from runs_service.watching import positions
from runs_service.watching.positions import ListPlace, PagePlace, Position
from runs_service.watching.project_subscription import ProjectSubscription
from runs_service.watching.projects import PAGE, ProjectWatchers
from runs_service.watching.stream import HEARTBEAT_AFTER, WRITE_TIMEOUT
from servicekit.errors import Reason, ServiceError
from servicekit.postgres.snapshots import Snapshot

logger = logging.getLogger(__name__)

NEWEST = 100  # runs a stream begins with

Write = Callable[[WatchRunsResponse], Awaitable[None]]


class ProjectStream:
    """Streams the runs of projects to watchers."""

    def __init__(
        self,
        store: RunStore,
        watchers: ProjectWatchers,
        *,
        bookmark_after: float = HEARTBEAT_AFTER,
        write_timeout: float = WRITE_TIMEOUT,
        page: int = PAGE,
    ) -> None:
        self._store = store
        self._watchers = watchers
        self._bookmark_after = bookmark_after
        self._write_timeout = write_timeout
        self._page = page

    async def serve(self, filters: Filters, *, after: str, write: Write) -> None:
        """Write what changes in a project until cancelled. `after`: the watcher's position; "": it wants the list.

        Raises ServiceError (VALIDATION_FAILED, POSITION_EXPIRED, WATCHER_TOO_SLOW, SHUTTING_DOWN).
        """
        # Subscribed before the first read, so that no change falls between the two.
        with self._watchers.subscribe(filters.project_id) as subscription:
            watcher = _Watcher(filters, write, self._write_timeout)
            if after:
                await self._resume(watcher, Position.decode(after, filters))
                is_level = False
            else:
                watcher.seen, runs = await self._store.newest(filters, limit=NEWEST)
                await watcher.send_list(runs, left=NEWEST)
                is_level = self._watchers.follow(subscription, watcher.seen)
            while True:
                if not is_level:
                    is_level = await self._catch_up(watcher, subscription)
                try:
                    async with asyncio.timeout_at(watcher.sent_at + self._bookmark_after):
                        page = await subscription.next()
                except TimeoutError:
                    await watcher.send_bookmark(subscription)
                    continue
                if page is None:
                    is_level = False
                elif page.has_expired:
                    raise _expired()
                else:
                    await watcher.send_changes(page.changes, page.until)

    async def _resume(self, watcher: "_Watcher", position: Position) -> None:
        """Send what is left of the list, or of the page, that the watcher was being sent."""
        watcher.seen, place = position.seen, position.place
        until = place.until if isinstance(place, PagePlace) else position.seen
        if not await self._store.changes.is_kept(watcher.filters.project_id, position.seen, until):
            raise _expired()
        if isinstance(place, ListPlace):
            before = place.created_at, place.run_id
            left = min(place.left, NEWEST)
            found = await self._store.runs.page(watcher.filters, limit=left, before=before) if left else []
            runs = await self._store.changes.as_of(position.seen, [run.id for run in found])
            await watcher.send_list(runs, left=left)
        elif place is not None:
            await self._finish_page(watcher, place)

    async def _finish_page(self, watcher: "_Watcher", place: PagePlace) -> None:
        """Send the rest of a page, a part at a time: the caller chose its end, so it can be far away."""
        behind = place.run_id, place.sequence
        while True:
            part = await self._store.changes.between(
                watcher.filters.project_id, watcher.seen, place.until, place=behind, limit=self._page
            )
            is_last = len(part) < self._page
            await watcher.send_changes(part, place.until, is_last=is_last)
            if is_last:
                return
            behind = part[-1].place

    async def _catch_up(self, watcher: "_Watcher", subscription: ProjectSubscription) -> bool:
        """Send what came after what the watcher has seen; return whether the subscription continues it."""
        self._watchers.restart(subscription)
        project = watcher.filters.project_id
        while True:
            page = (await self._store.changes.since({project: watcher.seen}, limit=self._page))[project]
            if page.has_expired:
                raise _expired()
            await watcher.send_changes(page.changes, page.until)
            if not page.has_more:
                return self._watchers.follow(subscription, watcher.seen)


class _Watcher:
    """What one watcher has been sent."""

    def __init__(self, filters: Filters, write: Write, write_timeout: float) -> None:
        self.filters = filters
        self.seen = Snapshot(1, 1)
        self.sent_at = asyncio.get_running_loop().time()
        self._write = write
        self._write_timeout = write_timeout

    async def send_list(self, runs: Sequence[Run], *, left: int) -> None:
        """Send the newest runs, or the rest of them, and the bookmark that ends them."""
        for number, run in enumerate(runs, 1):
            await self._send(
                WatchRunsResponse.SNAPSHOT, positions.listed(self.seen, run, left - number, self.filters), run
            )
        await self._send(WatchRunsResponse.BOOKMARK, Position(self.seen).encode(self.filters))

    async def send_changes(self, changes: Sequence[Change], until: Snapshot, *, is_last: bool = True) -> None:
        """Send those of a page's changes that the watcher has not seen and asks for.

        After the last of them it has seen what `until` sees.
        """
        if not until.is_later_than(self.seen):
            return
        wanted = [change.run for change in changes if not self.seen.sees(change.xid) and self._asks_for(change.run)]
        for number, run in enumerate(wanted, 1):
            has_more = number < len(wanted) or not is_last
            position = Position(self.seen, PagePlace(until, run.id, run.sequence)) if has_more else Position(until)
            await self._send(WatchRunsResponse.UPDATED, position.encode(self.filters), run)
        if is_last:
            self.seen = until

    async def send_bookmark(self, subscription: ProjectSubscription) -> None:
        """Send the position up to which there was nothing for this watcher."""
        reached = subscription.reached
        if reached and subscription.is_idle and reached.is_later_than(self.seen):
            self.seen = reached
        await self._send(WatchRunsResponse.BOOKMARK, Position(self.seen).encode(self.filters))

    def _asks_for(self, run: Run) -> bool:
        return self.filters.playbook_id in ("", run.playbook_id) and self.filters.run_type in (
            "",
            Run.Type.Name(run.run_type),
        )

    async def _send(self, kind: WatchRunsResponse.Kind.ValueType, position: str, run: Run | None = None) -> None:
        try:
            async with asyncio.timeout(self._write_timeout):
                await self._write(WatchRunsResponse(kind=kind, run=run, position=position))
        except TimeoutError as error:
            logger.warning("a watcher of project %s does not read; ending its stream", self.filters.project_id)
            raise ServiceError(
                Reason.WATCHER_TOO_SLOW,
                f"nothing was read for {self._write_timeout:.0f} seconds; watch again after the position you have",
            ) from error
        self.sent_at = asyncio.get_running_loop().time()


def _expired() -> ServiceError:
    return ServiceError(
        Reason.POSITION_EXPIRED,
        "changes after this position are not kept any more, or it is of another database; watch without after to "
        "start from the newest runs",
    )
