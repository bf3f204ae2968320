"""One replica's watching of runs, and its watchers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2 import WatchRunResponse

from runs_service.queries import RunQueries
from runs_service.store import RunStore
from runs_service.watching.hub import POLL, Watchers
from runs_service.watching.stream import RunStream
from servicekit.background.tasks import running
from servicekit.postgres.database import Database
from tests.support.runs import NOW, event, new_run
from tests.support.watcher import Watcher

SNAPSHOT, UPDATED, HEARTBEAT = WatchRunResponse.SNAPSHOT, WatchRunResponse.UPDATED, WatchRunResponse.HEARTBEAT


class Hub:
    """One replica's watching, and the means to change runs."""

    def __init__(self, database: Database, *, poll: float = POLL) -> None:
        self.store = RunStore(database, reconcile_after=timedelta(hours=1))
        self.watchers = Watchers(self.store.history, poll=poll)
        self.queries = RunQueries(self.store)
        self.numbers: dict[str, int] = {}

    def stream(self, **options: float) -> RunStream:
        return RunStream(self.queries, self.watchers, **options)

    async def create(self) -> Run:
        (stored,) = await self.store.runs.create([new_run(idempotency_key=str(len(self.numbers)))])
        self.numbers[stored.run.id] = 0
        return stored.run

    async def change(
        self, run: Run, status: Run.Status.ValueType = Run.RUNNING, *, times: int = 1, hint: bool = True
    ) -> None:
        events = []
        for _ in range(times):
            self.numbers[run.id] = number = self.numbers[run.id] + 1
            events.append(event(run.id, number, status, completed=number))
        await self.store.history.apply_events(events, NOW)
        if hint:
            self.watchers.wake(run.id)


class Watching(Watcher[WatchRunResponse]):
    """A watcher of a run."""

    def __init__(self, hub: Hub, run: Run, after: int | None = None, **options: float) -> None:
        super().__init__()
        self.begin(hub.stream(**options).serve(run.project_id, run.id, after=after, write=self.take))

    @property
    def seen(self) -> list[tuple[int, int]]:
        return [(message.kind, message.run.sequence) for message in self.sent]

    async def ends(self) -> None:
        async with asyncio.timeout(15):
            await self.task


@asynccontextmanager
async def running_hub(database: Database, *, poll: float = POLL) -> AsyncIterator[Hub]:
    hub = Hub(database, poll=poll)
    async with running(hub.watchers):
        yield hub
    assert hub.watchers.count == 0
    assert not hub.watchers._subscriptions


def updates(first: int, last: int) -> list[tuple[int, int]]:
    return [(UPDATED, sequence) for sequence in range(first, last + 1)]
