"""The store as a whole."""

from datetime import timedelta

from runs_service.store.history import History
from runs_service.store.outbox import Outbox
from runs_service.store.runs import Runs
from runs_service.store.stops import Stops
from runs_service.store.version_cache import VersionCache
from servicekit.postgres.database import Database


class RunStore:
    """Runs, their history, and what is left to do for them.

    Takes the database and the silence after which a run is reconciled.
    """

    def __init__(self, database: Database, *, reconcile_after: timedelta) -> None:
        versions = VersionCache()
        self.runs = Runs(database, versions, reconcile_after=reconcile_after)
        self.history = History(database, versions, reconcile_after=reconcile_after)
        self.outbox = Outbox(database, reconcile_after=reconcile_after)
        self.stops = Stops(database)
