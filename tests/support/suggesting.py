"""Requests for suggestions, the answers that tests/support/openai_server.py gives, and waits that take no time."""

from collections.abc import Callable

from executor_service.ai.provider import ProductBrief, SuggestionProvider, SuggestionRequest

FOREVER = 60.0  # seconds; no test waits for it


class Waits(list[float]):
    """Stands in for sleeping: remembers how long it would have taken."""

    async def __call__(self, seconds: float) -> None:
        self.append(seconds)


Build = Callable[..., SuggestionProvider]


def titles(*product_ids: str, project_id: str = "") -> SuggestionRequest:
    products = [
        ProductBrief(product_id, product_id.upper(), f"<p>Article {product_id}</p>") for product_id in product_ids
    ]
    return SuggestionRequest("seo_title", products, project_id)


def suggested(*product_ids: str) -> dict[str, str]:
    return {product_id: f"SEO title for {product_id.upper()}" for product_id in product_ids}
