"""The number of a transaction as a column. Only migrations load SQLAlchemy, so it stands apart from snapshots.py."""

from typing import Any

from sqlalchemy.types import UserDefinedType


class Xid8(UserDefinedType[Any]):
    """The column type xid8: the number of a transaction, which is never used again."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        """Return the type's name in SQL."""
        return "xid8"
