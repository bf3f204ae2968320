"""Products that need a suggestion, and suggestions that arrived."""

from typing import NamedTuple


class SuggestionCandidate(NamedTuple):
    """A product that needs a suggestion, with the one that was paid for before, if any."""

    product_id: str
    fingerprint: bytes
    stored: str | None
    title: str  # empty when there is a stored suggestion, like the description
    description: str
    use_is_due: bool = False  # that the stored suggestion is used is to be noted


class Suggestion(NamedTuple):
    """A usable suggestion that arrived."""

    fingerprint: bytes
    text: str
