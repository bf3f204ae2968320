"""What a service's database has on record."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import text

from servicekit.postgres.database import Database


async def rows(database: Database, statement: str, **values: Any) -> Sequence[Any]:
    """Return what a statement finds, with `values` for its `:names`."""
    async with database.autocommit() as connection:
        return (await connection.execute(text(statement), values)).all()
