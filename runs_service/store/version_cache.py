"""Runs as this process wrote them last, so that the next change need not read them first."""

from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple

from playbooks.runs.v1.run_pb2 import Run

CAPACITY = 10_000  # runs; about a kilobyte each


class Version(NamedTuple):
    """A run as it was written, and the number of the newest event in it.

    Every change of a run changes its event number or its status, so the two show whether it is still the same.
    """

    run: Run
    event_number: int


class VersionCache:
    """A bounded cache. Another process may have changed a run since: writes on top of a version check that."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._versions: OrderedDict[str, Version] = OrderedDict()

    def get(self, run_id: str) -> Version | None:
        """Return a run as it was written last, or None."""
        return self._versions.get(run_id)

    def put(self, versions: Iterable[Version]) -> None:
        """Remember what was written."""
        for version in versions:
            self._versions[version.run.id] = version
            self._versions.move_to_end(version.run.id)
        while len(self._versions) > self._capacity:
            self._versions.popitem(last=False)

    def drop(self, run_ids: Iterable[str]) -> None:
        """Forget runs that have ended, or that another process changed."""
        for run_id in run_ids:
            self._versions.pop(run_id, None)
