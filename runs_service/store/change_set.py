"""Runs on their way from one version to the next, before anything is written."""

import logging
from collections.abc import Callable, Mapping, Sequence

from playbooks.executor.v1.job_pb2 import RunEvent
from playbooks.runs.v1.run_pb2 import Run

from runs_service.store.version_cache import Version

logger = logging.getLogger(__name__)

# What an event makes of a run: the run after each change, in order; nothing when it tells nothing new.
Changes = Callable[[Run, RunEvent], Sequence[Run]]


class Changing:
    """What becomes of runs that are at `before`, by id, and the history of how."""

    def __init__(self, before: Mapping[str, Version]) -> None:
        self.before = before
        self.changed: dict[str, Version] = {}
        self.history: list[Run] = []

    def apply(self, events: Sequence[RunEvent], changes: Changes) -> None:
        """Let events happen, in order."""
        for event in events:
            version = self.changed.get(event.run_id) or self.before.get(event.run_id)
            if version is not None and event.project_id != version.run.project_id:
                logger.error("an event of run %s names another project than the run's: it is ignored", event.run_id)
            elif version is not None and event.number > version.event_number:
                steps = changes(version.run, event)
                self.history += steps
                self.changed[event.run_id] = Version(steps[-1] if steps else version.run, event.number)

    def end(self, changes: Callable[[Run], Sequence[Run]]) -> None:
        """Let runs end without an event."""
        for run_id, version in self.before.items():
            if steps := changes(version.run):
                self.history += steps
                self.changed[run_id] = Version(steps[-1], version.event_number)
