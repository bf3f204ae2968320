"""The store as a whole."""

from collections.abc import Sequence
from datetime import timedelta

from playbooks.runs.v1.run_pb2 import Run

from runs_service.messages import NewRun
from runs_service.store.backlog import Backlog
from runs_service.store.calls import Calls
from runs_service.store.changes import Changes
from runs_service.store.deletions import Deletions
from runs_service.store.history import History
from runs_service.store.outbox import Outbox
from runs_service.store.records import Filters, Stored
from runs_service.store.runs import Runs
from runs_service.store.stops import Stops
from runs_service.store.usage import Usage
from runs_service.store.version_cache import VersionCache
from servicekit.postgres.database import Database
from servicekit.postgres.snapshots import Snapshot


class RunStore:
    """Runs, their history, and what is left to do for them.

    Takes the database and the silence after which a run is reconciled.
    """

    def __init__(self, database: Database, *, reconcile_after: timedelta) -> None:
        self._database = database
        versions = VersionCache()
        self.runs = Runs(database, versions, reconcile_after=reconcile_after)
        self.calls = Calls(database, self.runs)
        self.history = History(database, versions, reconcile_after=reconcile_after)
        self.changes = Changes(database)
        self.outbox = Outbox(database, reconcile_after=reconcile_after)
        self.stops = Stops(database)
        self.deletions = Deletions(database)
        self.usage = Usage(database)
        self.backlog = Backlog(database)

    async def create(self, wanted: Sequence[NewRun]) -> list[Stored]:
        """Insert those of `wanted` that are new, and return, in order, the run that each of them led to.

        Those without a call are one statement, however many they are, as long as their keys are free.
        """
        named = [new for new in wanted if new.call]
        if not named:
            return await self.runs.create(wanted)
        plain = [new for new in wanted if not new.call]
        outcomes = iter(await self.runs.create(plain) if plain else [])
        outcomes_of_calls = iter(await self.calls.create(named))
        return [next(outcomes_of_calls if new.call else outcomes) for new in wanted]

    async def are_there(self, wanted: Sequence[NewRun]) -> set[str]:
        """Return the ids of those of `wanted` whose call, or whose key, has led to a run already."""
        named = [new for new in wanted if new.call]
        there = set(await self.calls.recorded(named)) if named else set()
        if rest := [new for new in wanted if new.run.id not in there]:
            there.update(await self.runs.holding_key(self._database, rest))
        return there

    _ONE_VIEW = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"
    _SNAPSHOT = "SELECT CAST(pg_current_snapshot() AS text) AS snapshot"

    async def newest(self, filters: Filters, *, limit: int) -> tuple[Snapshot, list[Run]]:
        """Return the newest runs, and the snapshot that sees them as they are returned."""
        async with self._database.transaction() as connection:
            await connection.execute(self._ONE_VIEW)
            row = await connection.fetch_one(self._SNAPSHOT)
            return Snapshot.parse(row.snapshot), await self.runs.page(filters, limit=limit, querier=connection)
