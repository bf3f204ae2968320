"""Pages of rows that are ordered by product id."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from servicekit import page_tokens

DEFAULT_LIMIT = 100  # rows
MAX_LIMIT = 1_000  # rows

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """Some rows, and the token of the page after them; empty on the last page."""

    rows: Sequence[Row]
    next_token: str


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Which page of `query` (its name and filters) is asked for."""

    query: list[str]
    limit: int
    page_token: str

    @property
    def after(self) -> str:
        """The product id before the page; "" before the first. Raises ServiceError (PAGE_TOKEN_INVALID)."""
        return page_tokens.decode(self.page_token, query=self.query)[0] if self.page_token else ""

    @property
    def size(self) -> int:
        """How many rows the page has at most."""
        return min(self.limit or DEFAULT_LIMIT, MAX_LIMIT)

    def page(self, rows: Sequence[Row], product_id: Callable[[Row], str]) -> Page[Row]:
        """Return the page out of `rows`, of which one more than `size` was read if there are more."""
        shown = rows[: self.size]
        more = len(rows) > len(shown)
        return Page(shown, page_tokens.encode([product_id(shown[-1])], query=self.query) if more else "")
