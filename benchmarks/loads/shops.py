"""Small shops for runs that do real work: previews of three products, and applies that write ten."""

import asyncio
from collections.abc import Sequence
from typing import Any

from playbooks.executor.v1 import catalog_service_pb2 as catalog
from playbooks.runs.v1.run_pb2 import Run, RunMeta
from playbooks.runs.v1.runs_service_pb2 import CreateRunRequest

PREVIEWED, APPLIED = 3, 10  # products of a run
PLAYBOOK = "missing_seo_title"
TIMEOUT = 30  # seconds a call
AT_ONCE = 16  # calls

Metadata = tuple[tuple[str, str], ...]


class Shop:
    """A project with a few products without SEO titles, and the runs on all of them.

    `catalog_stub` is a CatalogServiceStub on an asyncio channel.
    """

    def __init__(self, catalog_stub: Any, project: str, metadata: Metadata) -> None:
        self._catalog = catalog_stub
        self.project = project
        self._metadata = metadata

    async def create(self) -> None:
        """Create the project, with the plan BUSINESS; `metadata` must be of an OWNER of all projects."""
        request = catalog.PutProjectRequest(project_id=self.project, plan=catalog.Project.BUSINESS)
        await self._catalog.PutProject(request, metadata=self._metadata, timeout=TIMEOUT)

    async def put_products(self, count: int, *, version: str = "") -> None:
        """Put `count` products without SEO titles. A new `version` of them has no stored suggestions."""
        products = [
            catalog.Product(
                id=f"{self.project}-{number:02}",
                external_id=f"gid://shopify/Product/{number}",
                title=f"{self.project} thing {number} {version}",
                description=f"<p>Number {number} of {self.project}: sturdy, light and made to last.</p>",
            )
            for number in range(count)
        ]
        request = catalog.PutProductsRequest(project_id=self.project, products=products)
        await self._catalog.PutProducts(request, metadata=self._metadata, timeout=TIMEOUT)

    def preview(self, key: str, count: int) -> CreateRunRequest:
        """Return the request for a preview of `count` products."""
        return CreateRunRequest(
            project_id=self.project,
            playbook_id=PLAYBOOK,
            run_type=Run.PREVIEW_GENERATE,
            idempotency_key=key,
            meta=RunMeta(sample_size=count),
        )

    def apply(self, key: str, preview: Run) -> CreateRunRequest:
        """Return the request for an APPLY of what `preview` has written."""
        return CreateRunRequest(
            project_id=self.project,
            playbook_id=PLAYBOOK,
            run_type=Run.APPLY,
            idempotency_key=key,
            scope_id=preview.scope_id,
            rules_hash=preview.rules_hash,
        )


async def create_shops(shops: Sequence[Shop], products: int) -> None:
    """Create all shops with so many products each, several at once."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def create(shop: Shop) -> None:
        async with slots:
            await shop.create()
            await shop.put_products(products)

    await asyncio.gather(*(create(shop) for shop in shops))
