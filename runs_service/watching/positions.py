"""Where a watcher of a project is: what it has seen, by which it resumes."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from playbooks.runs.v1.run_pb2 import Run

from runs_service.queries import listed_at
from runs_service.store import Filters
from servicekit.errors import Reason, ServiceError
from servicekit.postgres.snapshots import Snapshot
from servicekit.rpc import page_tokens

LONGEST = 16 * 1024  # characters, of a position while some thousand transactions are open; else a few hundred
_PARTS = 5


@dataclass(frozen=True, slots=True)
class ListPlace:
    """The place in the list of newest runs: the run that was sent last, and how many may follow."""

    created_at: datetime
    run_id: UUID
    left: int


@dataclass(frozen=True, slots=True)
class PagePlace:
    """The place within a page: what its end sees, and the change that was sent last."""

    until: Snapshot
    run_id: str
    sequence: int


@dataclass(frozen=True, slots=True)
class Position:
    """A watcher has all that `seen` sees, and has come to a place in what follows."""

    seen: Snapshot
    place: ListPlace | PagePlace | None = None

    def encode(self, filters: Filters) -> str:
        """Return the position for a watcher with these filters."""
        place = self.place
        parts = [str(self.seen), "", "", "", ""]
        if isinstance(place, PagePlace):
            parts[1:4] = str(place.until), place.run_id, str(place.sequence)
        return page_tokens.encode(parts, query=_query(filters))

    @classmethod
    def decode(cls, text: str, filters: Filters) -> "Position":
        """Read a position. Raises ServiceError (VALIDATION_FAILED) for any that was not sent with these filters."""
        try:
            parts = page_tokens.decode(text, query=_query(filters), parts=_PARTS, longest=LONGEST)
            return cls(Snapshot.parse(parts[0]), _place(*parts[1:]))
        except (ServiceError, ValueError) as error:
            raise refused() from error


def listed(seen: Snapshot, run: Run, left: int, filters: Filters) -> str:
    """Return the encoded position of a run in the list of newest runs, after which at most `left` follow."""
    parts = [str(seen), "", run.id, str(left), run.created_at.ToJsonString()]
    return page_tokens.encode(parts, query=_query(filters))


def refused() -> ServiceError:
    """Return the error for a position that this service did not make."""
    return ServiceError(
        Reason.VALIDATION_FAILED,
        "after was altered or belongs to a watch with other filters; pass a position as it came, with the same "
        "filters, or start again without it",
        field="after",
    )


def _place(until: str, run_id: str, number: str, created_at: str) -> ListPlace | PagePlace | None:
    if not run_id:
        return None
    if str(int(number)) != number or not 0 <= int(number) < 2**63 or str(UUID(run_id)) != run_id:
        raise ValueError("no place")
    if until:
        return PagePlace(Snapshot.parse(until), run_id, int(number))
    return ListPlace(*listed_at(created_at, run_id), int(number))


def _query(filters: Filters) -> list[str]:
    return ["WatchRuns", filters.project_id, filters.playbook_id, filters.run_type]
