"""What runs_service keeps in PostgreSQL, a class for each noun, every statement beside the method that runs it."""

from runs_service.store.changes import Change, Changes, Page
from runs_service.store.history import History
from runs_service.store.records import Changed, Dispatchable, Filters, Stored
from runs_service.store.store import RunStore

__all__ = ["Change", "Changed", "Changes", "Dispatchable", "Filters", "History", "Page", "RunStore", "Stored"]
