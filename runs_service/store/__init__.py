"""What runs_service keeps in PostgreSQL, and every SQL statement for it."""

from runs_service.store.records import Changed, Dispatchable, Filters, Stored
from runs_service.store.runs import RunStore

__all__ = ["Changed", "Dispatchable", "Filters", "RunStore", "Stored"]
