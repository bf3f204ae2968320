"""Announces changes to the watchers at this process and at the other ones, and counts them."""

from collections.abc import Sequence

from playbooks.runs.v1.run_pb2 import Run

from runs_service.metrics import RunsMetrics
from runs_service.watching.hub import CHANGES_CHANNEL, Watchers, hints
from runs_service.watching.projects import ProjectWatchers, project_hints
from servicekit.postgres.database import Database
from servicekit.postgres.notifications import Notifier

# Seconds between two hints about new runs, of which there may be thousands a second. So long, at most, a project's
# watchers at other processes wait for one.
CREATED_PAUSE = 0.05


class Announcer:
    """Announces what this process has committed, and takes the hints of the others. Its `workers` have to run."""

    def __init__(
        self, database: Database, watchers: Watchers, project_watchers: ProjectWatchers, metrics: RunsMetrics
    ) -> None:
        self._watchers = watchers
        self._project_watchers = project_watchers
        self._metrics = metrics
        self._changes = Notifier(database, CHANGES_CHANNEL)
        self._creations = Notifier(database, CHANGES_CHANNEL, pause=CREATED_PAUSE)
        self.workers = (watchers, project_watchers, self._changes, self._creations)

    def changed(self, changes: Sequence[Run]) -> None:
        """Announce changes of runs."""
        self._metrics.changed(changes)
        self._watchers.deliver(changes)
        self._project_watchers.wake(changes)
        self._changes.notify([*hints(changes), *project_hints(changes)])

    def created(self, runs: Sequence[Run]) -> None:
        """Announce new runs: only watchers of their project can be waiting for them."""
        self._metrics.created(runs)
        self._project_watchers.wake(runs)
        self._creations.notify(project_hints(runs))

    def on_notification(self, payload: str) -> None:
        """Take the hints of another process."""
        self._watchers.on_notification(payload)
        self._project_watchers.on_notification(payload)

    def on_gap(self) -> None:
        """Look at everything that is watched: hints may have been lost."""
        self._watchers.wake_all()
        self._project_watchers.wake_all()
