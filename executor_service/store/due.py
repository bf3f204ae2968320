# ruff: noqa: S608 - statements are put together from constants only
"""What is left to do, at one look."""

from executor_service.store.executions import OVERDUE
from executor_service.store.outbox import LEFT
from servicekit.postgres.database import Connection

# Each is found by a partial index.
_DUE = f"""
SELECT EXISTS (SELECT FROM executor.executions WHERE {OVERDUE}) AS overdue,
       EXISTS (SELECT FROM executor.executions WHERE {LEFT}) AS unpublished"""


async def due(connection: Connection, *, unpublished_for: float) -> set[str]:
    """Return which of these there are: `overdue`, executions that wait past their deadline, and `unpublished`, those
    with a change that was not published for so many seconds."""
    row = await connection.fetch_one(_DUE, {"age": unpublished_for})
    return {name for name, there_are in row._asdict().items() if there_are}
