"""What runs_service keeps in PostgreSQL, and every SQL statement for it."""

from runs_service.store.records import Dispatchable, Filters, Stored
from runs_service.store.runs import RunStore

__all__ = ["Dispatchable", "Filters", "RunStore", "Stored"]
