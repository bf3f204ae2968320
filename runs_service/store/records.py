"""What the store takes and returns."""

from dataclasses import dataclass
from typing import NamedTuple

from playbooks.runs.v1.run_pb2 import Run


class Stored(NamedTuple):
    """The run that a NewRun led to."""

    run: Run
    created: bool
    same_request: bool


class Dispatchable(NamedTuple):
    """A run for the executor, and the request it came from."""

    run: Run
    request_id: str


@dataclass(frozen=True)
class Filters:
    """Which runs to list; an empty string means all."""

    project_id: str
    playbook_id: str = ""
    run_type: str = ""
    scope_id: str = ""
    status: str = ""
