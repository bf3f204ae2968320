# ruff: noqa: S608 - statements are put together from constants only
"""The store as a whole."""

from datetime import timedelta

from runs_service.models import STOP_PENDING
from runs_service.store.history import History
from runs_service.store.outbox import SILENT, UNDISPATCHED_FOR_LONG, Outbox
from runs_service.store.runs import Runs
from runs_service.store.stops import OVERDUE, Stops
from runs_service.store.version_cache import VersionCache
from servicekit.postgres.database import Database


class RunStore:
    """Runs, their history, and what is left to do for them.

    Takes the database and the silence after which a run is reconciled.
    """

    def __init__(self, database: Database, *, reconcile_after: timedelta) -> None:
        versions = VersionCache()
        self._database = database
        self.runs = Runs(database, versions, reconcile_after=reconcile_after)
        self.history = History(database, versions, reconcile_after=reconcile_after)
        self.outbox = Outbox(database, reconcile_after=reconcile_after)
        self.stops = Stops(database)

    # Each is found by a partial index.
    _DUE = f"""
    SELECT EXISTS (SELECT FROM runs.runs WHERE {STOP_PENDING}) AS stops,
           EXISTS (SELECT FROM runs.runs WHERE {OVERDUE}) AS overdue,
           EXISTS (SELECT FROM runs.runs WHERE {UNDISPATCHED_FOR_LONG}) AS undispatched,
           EXISTS (SELECT FROM runs.runs WHERE {SILENT}) AS silent"""

    async def due(self, *, undispatched_for: timedelta, overdue_by: timedelta) -> set[str]:
        """Return which of these there are: `stops`, `overdue`, `undispatched`, `silent`. With one statement."""
        row = await self._database.fetch_one(self._DUE, {"older_than": undispatched_for, "margin": overdue_by})
        return {name for name, there_are in row._asdict().items() if there_are}
