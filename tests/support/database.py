"""What a service's database has on record."""

from collections.abc import Sequence
from typing import Any

from servicekit.postgres.database import Database


async def rows(database: Database, statement: str, **values: Any) -> Sequence[Any]:
    """Return what a statement finds, with `values` for its `%(names)s`."""
    return await database.fetch_all(statement, values)
