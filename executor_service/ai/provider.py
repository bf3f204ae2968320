"""The interface of an AI provider."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ProductBrief:
    """What a provider sees of a product: plain title, description as the shop has it (HTML allowed)."""

    product_id: str
    title: str
    description: str


class Meter(Protocol):
    """Counts what is asked of a provider."""

    def sent(self) -> None:
        """Count a request that goes out."""

    def answered(self, *, input_tokens: int, cached_input_tokens: int, output_tokens: int) -> None:
        """Count the tokens of an answer; the cached ones are among those of the input."""


@dataclass(frozen=True, slots=True)
class SuggestionRequest:
    """One field to be written for some products, each with its own id.

    `field` is `seo_title` or `seo_description`. `project_id` never leaves the process: when requests have to queue,
    projects take turns. `patience_seconds` is how long an answer is of use; None: it is not known. `usage` counts what
    goes out and comes in, also where the call fails or is cancelled. With `economy` the answer may come late, for less
    money, and never for the full price.
    """

    field: str
    products: Sequence[ProductBrief]
    project_id: str = ""
    patience_seconds: float | None = None
    usage: Meter | None = None
    economy: bool = False


@dataclass(frozen=True, slots=True)
class Answers:
    """What a provider wrote, by product id, and for each product without a text the reason, as a sentence.

    A text may be blank: then the provider had nothing to say about the product.
    """

    texts: Mapping[str, str] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Expectation:
    """What suggestions would take: requests, and tokens read and written."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


class SuggestionProvider(Protocol):
    """Writes suggestions. One instance serves the whole process, any number of calls at once."""

    @property
    def model(self) -> str:
        """Name of the model; it goes into the draft and into the suggestion's key."""

    @property
    def prompt_version(self) -> str:
        """Changes whenever the prompt for the same product would; part of the suggestion's key."""

    async def suggest(self, request: SuggestionRequest) -> Answers:
        """Return a text or a reason for every product of the request.

        Raises `AIError`; texts that arrived before it are in the error's `partial`. An `AIBatchError` is about these
        products only, and none of them has a text.
        """

    async def expect(
        self, field: str, sample: Sequence[ProductBrief], *, products: int, batch_size: int
    ) -> Expectation:
        """Return what suggestions for so many `products` like those in the `sample` would take, `batch_size` with a
        request. Asks nobody."""

    async def close(self) -> None:
        """Give back connections. Closing twice is harmless."""
