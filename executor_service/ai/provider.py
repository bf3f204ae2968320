"""The interface of an AI provider."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ProductBrief:
    """What a provider sees of a product: plain title, description as the shop has it (HTML allowed)."""

    product_id: str
    title: str
    description: str


@dataclass(frozen=True, slots=True)
class SuggestionRequest:
    """One field to be written for some products, each with its own id.

    `field` is `seo_title` or `seo_description`. `project_id` never leaves the process: when requests have to queue,
    projects take turns.
    """

    field: str
    products: Sequence[ProductBrief]
    project_id: str = ""


class SuggestionProvider(Protocol):
    """Writes suggestions. One instance serves the whole process, any number of calls at once."""

    @property
    def model(self) -> str:
        """Name of the model; it goes into the draft and into the suggestion's key."""

    @property
    def prompt_version(self) -> str:
        """Changes whenever the prompt for the same product would; part of the suggestion's key."""

    async def suggest(self, request: SuggestionRequest) -> dict[str, str]:
        """Return a text for every product of the request, by product id; "" where there is nothing usable.

        Raises `AIError`; texts that arrived before it are in the error's `partial`.
        """

    async def close(self) -> None:
        """Give back connections. Closing twice is harmless."""
