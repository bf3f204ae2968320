"""One replica's watching of a project, and its watchers."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from uuid import uuid4

import pytest
from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2 import WatchRunsResponse

from runs_service.store import Changes, Filters, Page, RunStore
from runs_service.watching.project_stream import ProjectStream
from runs_service.watching.projects import PAGE, POLL, ProjectWatchers
from servicekit.background.tasks import running
from servicekit.errors import Reason, ServiceError
from servicekit.postgres.database import Database
from servicekit.postgres.snapshots import Snapshot
from tests.support.runs import NOW, event, new_run
from tests.support.waiting import eventually
from tests.support.watcher import Watcher

SNAPSHOT, UPDATED, BOOKMARK = WatchRunsResponse.SNAPSHOT, WatchRunsResponse.UPDATED, WatchRunsResponse.BOOKMARK
Seen = tuple[int, str, int]  # kind, run, sequence


class CountedChanges(Changes):
    """Counts what is read for watchers that follow."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.reads: Counter[str] = Counter()

    async def since(self, snapshots: Mapping[str, Snapshot], *, limit: int) -> dict[str, Page]:
        self.reads.update(snapshots.keys())
        return await super().since(snapshots, limit=limit)


class Replica:
    """One replica's watching of a project of the test's own, and the means to change runs."""

    def __init__(self, database: Database, project: str, *, poll: float = POLL, page: int = PAGE) -> None:
        self.database = database
        self.project = project
        self.page = page
        self.store = RunStore(database, reconcile_after=timedelta(hours=1))
        self.changes = CountedChanges(database)
        self.watchers = ProjectWatchers(self.changes, poll=poll, page=page)
        self.numbers: dict[str, int] = {}

    def stream(self, **options: float) -> ProjectStream:
        return ProjectStream(self.store, self.watchers, page=self.page, **options)

    async def create(self, *, hint: bool = True, **fields: object) -> Run:
        wanted = new_run(**{"project_id": self.project, "idempotency_key": str(uuid4()), **fields})
        (stored,) = await self.store.runs.create([wanted])
        if hint:
            self.watchers.wake([stored.run])
        return stored.run

    async def change(self, run: Run, status: Run.Status.ValueType = Run.RUNNING, *, times: int = 1) -> None:
        events = []
        for _ in range(times):
            self.numbers[run.id] = number = self.numbers.get(run.id, 0) + 1
            events.append(event(run.id, number, status, completed=number, project_id=run.project_id))
        self.watchers.wake((await self.store.history.apply_events(events, NOW)).history)

    async def history(self) -> list[Seen]:
        rows = await self.database.fetch_all(
            "SELECT run FROM runs.run_events WHERE project_id = %(p)s ORDER BY run_id, sequence", {"p": self.project}
        )
        runs = [Run.FromString(row.run) for row in rows]
        return [(UPDATED, run.id, run.sequence) for run in runs]


class Watching(Watcher[WatchRunsResponse]):
    """A watcher of a project; it leaves after `limit` messages."""

    def __init__(self, replica: Replica, after: str = "", *, limit: int | None = None, **options: object) -> None:
        super().__init__()
        filters = Filters(
            replica.project, **{k: str(options.pop(k)) for k in ("playbook_id", "run_type") if k in options}
        )
        self._limit = limit
        self.begin(replica.stream(**options).serve(filters, after=after, write=self.take))  # type: ignore[arg-type]

    async def take(self, message: WatchRunsResponse) -> None:
        await self.reading.wait()
        if self._limit is not None and len(self.sent) >= self._limit:
            raise ConnectionError
        await super().take(message)

    @property
    def seen(self) -> list[Seen]:
        return [seen(message) for message in self.sent]

    @property
    def position(self) -> str:
        return self.sent[-1].position

    async def fails(self, reason: Reason) -> None:
        with pytest.raises(ServiceError) as failure:
            async with asyncio.timeout(15):
                await self.task
        assert failure.value.reason is reason


def seen(message: WatchRunsResponse) -> Seen:
    return message.kind, message.run.id, message.run.sequence


def updates(run: Run, first: int, last: int) -> list[Seen]:
    return [(UPDATED, run.id, sequence) for sequence in range(first, last + 1)]


def ordered(messages: list[Seen]) -> bool:
    """Whether the changes of each run come in order."""
    by_run: dict[str, list[int]] = {}
    for _, run_id, sequence in messages:
        by_run.setdefault(run_id, []).append(sequence)
    return all(sequences == sorted(sequences) for sequences in by_run.values())


@asynccontextmanager
async def running_replica(database: Database, project: str | None = None, **options: float) -> AsyncIterator[Replica]:
    replica = Replica(database, project or f"p-{uuid4()}", **options)  # type: ignore[arg-type]
    async with running(replica.watchers):
        yield replica
    assert replica.watchers.count == 0
    assert not replica.watchers._feeds
    assert not replica.watchers._projects


async def bookmarked(replica: Replica) -> str:
    """Return the position of now."""
    async with Watching(replica) as watcher:
        await eventually(lambda: watcher.sent and watcher.sent[-1].kind == BOOKMARK)
        return watcher.position
