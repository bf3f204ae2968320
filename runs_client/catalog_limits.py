"""What of a file's product fits into the catalog. The limits are those of catalog_service.proto."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

from buf.validate import validate_pb2
from playbooks.executor.v1.catalog_service_pb2 import Product

from runs_client.shopify import CatalogFileError, CatalogProduct
from servicekit.telemetry.printable import printable

# A picture in the text, as its editor pasted it: most of a long description, and nothing to write a text from.
_PICTURE = re.compile(r"(data:[a-z0-9.+-]+/[a-z0-9.+-]+(?:;[a-z0-9=.+-]+)*;base64,)[a-z0-9+/=_%-]+", re.IGNORECASE)
# What no reader sees; an end that is missing is the end of the text, so that each is looked for once.
_UNSEEN = re.compile(r"<!--.*?(?:-->|\Z)|<(script|style)\b.*?(?:</\1\s*>|\Z)", re.IGNORECASE | re.DOTALL)
_FIELDS: Final = {  # of a CatalogProduct: what a person calls it, and the catalog's field
    "title": ("title", "title"),
    "body_html": ("description", "description"),
    "seo_title": ("SEO title", "seo_title"),
    "seo_description": ("SEO description", "seo_description"),
}


@dataclass(frozen=True, slots=True)
class Fitting:
    """A product as the catalog takes it, and in words what was left out of it."""

    product: CatalogProduct
    left_out: tuple[str, ...]

    @classmethod
    def of(cls, product: CatalogProduct) -> Self:
        """Cut the texts that are too long. Raises CatalogFileError for a handle that is: it cannot be cut."""
        if len(product.handle) > (limit := _limit("id")):
            raise CatalogFileError(
                f"{printable(product.handle[:40])}...: a handle has at most {limit} characters, this one "
                f"{len(product.handle):,}: shorten it."
            )
        values = {"handle": product.handle}
        left_out = []
        for name, (noun, field) in _FIELDS.items():
            text: str = getattr(product, name)
            limit = _limit(field)
            if len(text) > limit:
                left_out.append(f"its {noun} has {len(text):,} characters, of which the catalog takes {limit:,}")
                text = (_without_ballast(text) if name == "body_html" else text)[:limit]
            values[name] = text
        return cls(CatalogProduct(**values), tuple(left_out))


def fit(products: Iterable[CatalogProduct]) -> tuple[list[CatalogProduct], list[str]]:
    """Return the products as the catalog takes them, and a warning for each that lost something.

    Raises CatalogFileError for a product that it cannot take.
    """
    fittings = [Fitting.of(product) for product in products]
    warnings = [f"{fitting.product.handle}: {'; '.join(fitting.left_out)}" for fitting in fittings if fitting.left_out]
    return [fitting.product for fitting in fittings], warnings


def _without_ballast(html: str) -> str:
    """Return a description without what no text is written from."""
    return _UNSEEN.sub("", _PICTURE.sub(r"\1", html))


def _limit(field: str) -> int:
    """Return how many characters a field of the catalog's product takes."""
    options = Product.DESCRIPTOR.fields_by_name[field].GetOptions()
    return int(options.Extensions[validate_pb2.field].string.max_len)
