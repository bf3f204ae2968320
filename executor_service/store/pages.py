# ruff: noqa: S608 - statements are put together from constants only
"""Pages that are bounded by their rows and by their bytes."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from executor_service.domain.paging import PAGE_BYTES, Slice

Value = TypeVar("Value")


def page_of(select: str, *, columns: str, key: str, texts: Sequence[str]) -> str:
    """Return the statement of a page of what `select` finds: its `columns`, and whether there are `more` after them.

    The rows come in the order of `key`. There are at most :limit of them, and none after those whose `texts` together
    have reached PAGE_BYTES: what is too much for a message never leaves the database.
    """
    size = " + ".join(f"octet_length({column})" for column in texts)
    return f"""
SELECT {columns}, more FROM (
  SELECT {columns}, lead(true, 1, false) OVER page AS more, sum(size) OVER page - size AS bytes_before
  FROM (SELECT *, {size} AS size FROM ({select} ORDER BY {key} LIMIT CAST(:limit AS bigint) + 1) AS found) AS sized
  WINDOW page AS (ORDER BY {key} ROWS UNBOUNDED PRECEDING)
) AS summed
WHERE bytes_before < {PAGE_BYTES} ORDER BY {key} LIMIT :limit"""


def slice_of(rows: Iterable[Sequence[Any]], make: Callable[..., Value]) -> Slice[Value]:
    """Return the values that `make` makes of a page's rows."""
    found = list(rows)
    return Slice([make(*row[:-1]) for row in found], more=bool(found) and found[-1][-1])
