"""Products between catalog files and the services. A product is known by its handle in both."""

from collections.abc import Iterable
from pathlib import Path

from playbooks.executor.v1.catalog_service_pb2 import Product

from runs_client.catalog_limits import Fitting
from runs_client.shopify import Catalog, CatalogProduct


def to_product(product: CatalogProduct) -> Product:
    """Return a file's product as the services know it."""
    return Product(
        id=product.handle,
        external_id=product.handle,
        title=product.title,
        description=product.body_html,
        seo_title=product.seo_title,
        seo_description=product.seo_description,
    )


def from_product(product: Product) -> CatalogProduct:
    """Return the services' product as a file has it."""
    return CatalogProduct(
        _handle(product), product.title, product.description, product.seo_title, product.seo_description
    )


def fill_in(original: Catalog, products: Iterable[Product]) -> tuple[Catalog, int]:
    """Return the original with the products' SEO texts, and how many of its products these changed."""
    # Of a text that is longer than the catalog takes, the catalog has the beginning: that is not a new text.
    cut = {product.handle: product for product in map(_as_stored, original.products)}
    texts = {}
    for product in products:
        if before := cut.get(_handle(product)):
            texts[before.handle] = (
                "" if product.seo_title == before.seo_title else product.seo_title,
                "" if product.seo_description == before.seo_description else product.seo_description,
            )
    improved = original.with_seo(texts)
    changed = sum(old != new for old, new in zip(original.products, improved.products, strict=True))
    return improved, changed


def missing_columns(catalog: Catalog) -> str:
    """Return in one line which columns were not found and which the file has; "" when all were found."""
    if not catalog.missing_columns:
        return ""
    *others, last = catalog.missing_columns
    wanted = f"{', '.join(others)} or {last}" if others else last
    return (
        f"no column found for {wanted}; the file has {', '.join(catalog.headings)}. If one of these is meant, name it "
        "as Shopify does (Title, Body (HTML), SEO Title, SEO Description) and import the file again"
    )


def unused_name(folder: Path, stem: str) -> Path:
    """Return the first of stem.csv, stem-2.csv, stem-3.csv ... that is not in the folder."""
    path, number = folder / f"{stem}.csv", 1
    while path.exists():
        number += 1
        path = folder / f"{stem}-{number}.csv"
    return path


def _as_stored(product: CatalogProduct) -> CatalogProduct:
    return Fitting.of(product).product


def _handle(product: Product) -> str:
    return product.external_id or product.id
