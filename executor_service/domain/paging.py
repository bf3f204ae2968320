"""Pages of rows that are ordered by product id."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from servicekit.errors import Reason, ServiceError
from servicekit.rpc import page_tokens

DEFAULT_LIMIT = 100  # rows
MAX_LIMIT = 1_000  # rows
# Texts of a page, to which its last row may add one row's. The 50 items of a preview fit, however long; and so does the
# page into the 4 MB that a gRPC client takes by default.
PAGE_BYTES = 2 * 1024 * 1024

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Slice(Generic[Row]):
    """Rows as a store found them, and whether there are more after them."""

    rows: Sequence[Row]
    more: bool


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """Some rows, and the token of the page after them; empty on the last page."""

    rows: Sequence[Row]
    next_token: str


@dataclass(frozen=True, slots=True)
class PageRequest:
    """A request for a page of `query` (its name and filters).

    `default` is its size where no limit is given. Where the rows may be replaced between two pages, a token carries
    their state in `state_parts` texts, and is valid for that state only.
    """

    query: list[str]
    limit: int
    page_token: str
    default: int = DEFAULT_LIMIT
    state_parts: int = 0

    @property
    def after(self) -> str:
        """The product id before the page; "" before the first. Raises ServiceError (PAGE_TOKEN_INVALID)."""
        return self._position[-1] if self.page_token else ""

    @property
    def size(self) -> int:
        """How many rows the page has at most."""
        return min(self.limit or self.default, MAX_LIMIT)

    def page(self, found: Slice[Row], product_id: Callable[[Row], str], *, state: Sequence[str] = ()) -> Page[Row]:
        """Return the page with what was `found` in this `state`.

        Raises ServiceError (PAGE_TOKEN_INVALID) when the page before was of another state.
        """
        if self.page_token and self._position[:-1] != list(state):
            raise ServiceError(
                Reason.PAGE_TOKEN_INVALID,
                "what page_token continues has been written again since the page before, and the two do not belong "
                "together; start again without page_token",
                field="page_token",
            )
        if not found.more:
            return Page(found.rows, "")
        return Page(found.rows, page_tokens.encode([*state, product_id(found.rows[-1])], query=self.query))

    @property
    def _position(self) -> list[str]:
        return page_tokens.decode(self.page_token, query=self.query, parts=self.state_parts + 1)
