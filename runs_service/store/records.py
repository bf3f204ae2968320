"""What the store takes and returns."""

from dataclasses import dataclass
from typing import NamedTuple

from playbooks.executor.v1.job_pb2 import RunEvent
from playbooks.runs.v1.run_pb2 import Run

from servicekit.postgres.database import Row


class Stored(NamedTuple):
    """The run that a NewRun led to."""

    run: Run
    created: bool
    same_request: bool
    is_repeat: bool = False  # an earlier attempt at the same call led to it; `created` is what that one got

    @property
    def is_new(self) -> bool:
        """Whether the run was stored just now, and has to be announced."""
        return self.created and not self.is_repeat


class Dispatchable(NamedTuple):
    """A run for the executor, and the request and the trace that it came from."""

    run: Run
    request_id: str
    traceparent: str = ""


def dispatchable(row: Row) -> Dispatchable:
    """Return the run in a row of run, request_id and traceparent."""
    return Dispatchable(Run.FromString(row.run), row.request_id, row.traceparent or "")


class Changed(NamedTuple):
    """What events led to."""

    history: list[Run]  # each change of a run, in order
    foreign: list[RunEvent]  # events that name another project than their run's: not applied


@dataclass(frozen=True)
class Filters:
    """Which runs to list; an empty string means all."""

    project_id: str
    playbook_id: str = ""
    run_type: str = ""
    scope_id: str = ""
    status: str = ""
    retry_of: str = ""
