"""Runs on their way from one version to the next, before anything is written."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from playbooks.executor.v1.job_pb2 import RunEvent
from playbooks.runs.v1.run_pb2 import Run

from runs_service import transitions
from runs_service.store.version_cache import Version


class ChangeSet:
    """The changes of runs that are at `before`, by id: where they end up, and each step."""

    def __init__(self, before: Mapping[str, Version]) -> None:
        self.before = before
        self.changed: dict[str, Version] = {}
        self.history: list[Run] = []
        self.foreign: list[RunEvent] = []  # events that name another project than their run's: they change nothing

    def apply(self, events: Sequence[RunEvent], now: datetime) -> None:
        """Let events happen, in order.

        An event whose number was passed already is ignored, except for a terminal event of a run that has not ended: an
        execution that has ended changes no more. So a run ends even when a larger number was accepted before.
        """
        for event in events:
            version = self.changed.get(event.run_id) or self.before.get(event.run_id)
            if version is None:
                continue
            if event.project_id != version.run.project_id:
                self.foreign.append(event)
            elif event.number > version.event_number or (
                transitions.is_terminal(event.status) and not transitions.is_terminal(version.run.status)
            ):
                steps = transitions.changes(version.run, event, now)
                self.history += steps
                self.changed[event.run_id] = Version(steps[-1] if steps else version.run, event.number)

    def end(self, step: Callable[[Run, datetime], list[Run]], now: datetime) -> None:
        """Let runs end without an event; `step` is the transition."""
        for run_id, version in self.before.items():
            if steps := step(version.run, now):
                self.history += steps
                self.changed[run_id] = Version(steps[-1], version.event_number)
