"""Watching projects: one read of what is new for all watchers of a project at this process.

A hint names the project and says only "look now"; what is new is read from the history, as the difference to what was
read before. A poll finds changes of which no hint arrived.
"""

import asyncio
import contextlib
import logging
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from playbooks.runs.v1.run_pb2 import Run

from runs_service.store import Changes
from runs_service.watching.project_subscription import ProjectSubscription
from servicekit.background.tasks import Worker
from servicekit.errors import ServiceError
from servicekit.postgres.snapshots import Snapshot

logger = logging.getLogger(__name__)

POLL = 1.0  # seconds; only while there are watchers
PAUSE = 0.01  # seconds between two reads: what arrives meanwhile is read together
PAGE = 250  # changes of a project that are read at once


def project_hints(changes: Iterable[Run]) -> list[str]:
    """Return the hints for other processes: in which projects there are changes."""
    return [_hint(project) for project in dict.fromkeys(run.project_id for run in changes)]


@dataclass
class _Feed:
    """What is read for the watchers of a project."""

    at: Snapshot | None = None  # up to where it was read; None: no watcher follows yet
    subscriptions: set[ProjectSubscription] = field(default_factory=set)


class ProjectWatchers(Worker):
    """All watchers of projects at this process."""

    def __init__(self, changes: Changes, *, poll: float = POLL, pause: float = PAUSE, page: int = PAGE) -> None:
        super().__init__()
        self._changes = changes
        self._poll = poll
        self._pause = pause
        self._page = page
        self._feeds: dict[str, _Feed] = {}
        self._projects: dict[str, set[str]] = {}  # watched ones, by their hint
        self._woken: set[str] = set()
        self._arrived = asyncio.Event()
        self._ended: ServiceError | None = None
        self.count = 0  # of subscriptions; the thread of the metrics reads it, and must not iterate over our sets

    @contextlib.contextmanager
    def subscribe(self, project_id: str) -> Iterator[ProjectSubscription]:
        """Enter a subscription to a project; it collects what is read from now on."""
        subscription = ProjectSubscription(project_id)
        feed = self._feeds.setdefault(project_id, _Feed())
        self._projects.setdefault(_hint(project_id), set()).add(project_id)
        feed.subscriptions.add(subscription)
        self.count += 1
        subscription.restart(feed.at)
        if self._ended:
            subscription.end(self._ended)
        try:
            yield subscription
        finally:
            self.count -= 1
            feed.subscriptions.discard(subscription)
            if not feed.subscriptions:
                del self._feeds[project_id]
                self._projects[_hint(project_id)].discard(project_id)
                if not self._projects[_hint(project_id)]:
                    del self._projects[_hint(project_id)]

    def restart(self, subscription: ProjectSubscription) -> None:
        """Let a subscription collect from now on what is read; its watcher reads what came before."""
        subscription.restart(self._feeds[subscription.project_id].at)

    def follow(self, subscription: ProjectSubscription, seen: Snapshot) -> bool:
        """Return whether what the subscription collects continues `seen`, which was read since its last restart."""
        feed = self._feeds[subscription.project_id]
        if feed.at is None:
            feed.at = seen
            for other in feed.subscriptions:
                other.restart(seen)
            self._woken.add(subscription.project_id)  # hints about changes made meanwhile were ignored
            self._arrived.set()
        return subscription.is_level(seen)

    def wake(self, changes: Iterable[Run]) -> None:
        """Read on for the projects of changes that this process has committed."""
        self.on_notification(" ".join(project_hints(changes)))

    def on_notification(self, payload: str) -> None:
        """Read on for the projects that hints are about; words about runs are passed over."""
        for word in payload.split():
            if projects := self._projects.get(word):
                self._woken |= projects
                self._arrived.set()

    def wake_all(self) -> None:
        """Read on for every watched project: hints may have been lost."""
        self._woken |= self._feeds.keys()
        self._arrived.set()

    def end(self, error: ServiceError) -> None:
        """End all subscriptions, and those to come, with `error`: this process is stopping."""
        self._ended = error
        for feed in self._feeds.values():
            for subscription in feed.subscriptions:
                subscription.end(error)

    async def run(self) -> None:
        """Read and deliver what is new until cancelled."""
        loop = asyncio.get_running_loop()
        polled = loop.time()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(polled + self._poll if self._feeds else None):
                    await self._arrived.wait()
            self._arrived.clear()
            # By the clock and not by silence: hints about one project must not put off the poll for the others.
            if loop.time() >= polled + self._poll:
                self._woken |= self._feeds.keys()
                polled = loop.time()
            woken, self._woken = self._woken, set()
            await self._read(woken)
            await asyncio.sleep(self._pause)

    async def _read(self, projects: set[str]) -> None:
        feeds = {
            project: (feed, feed.at)
            for project in projects
            if (feed := self._feeds.get(project)) and feed.at is not None
        }
        if not feeds:
            return
        try:
            pages = await self._changes.since({project: at for project, (_, at) in feeds.items()}, limit=self._page)
        except ServiceError as error:
            logger.log(self._reminder.level_for(error), "watchers of projects wait: %s", error)
            return
        for project, (feed, _) in feeds.items():
            page = pages[project]
            feed.at = page.until
            for subscription in feed.subscriptions:
                subscription.deliver(page)
            if page.has_more:
                self._woken.add(project)
                self._arrived.set()


def _hint(project_id: str) -> str:
    """Return the word for a project. Two may share one, which costs a read; a release that knows only runs finds no
    run of that name."""
    return f"@{zlib.crc32(project_id.encode()):08x}:0"
