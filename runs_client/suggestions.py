"""A draft's suggestions beside the products that they are for."""

from playbooks.executor.v1.catalog_service_pb2 import Product
from playbooks.runs.v1.run_pb2 import Draft

from runs_client.executor import ExecutorClient


async def products_of(executor: ExecutorClient, draft: Draft, *, limit: int | None = None) -> dict[str, Product]:
    """Return the products of a draft's items, the first `limit`, by id; without those that are no longer there.

    Raises ServiceCallError.
    """
    wanted = {item.product_id for item in draft.items[:limit]}
    found: dict[str, Product] = {}
    # Affected ones first: there may be far fewer of them. A product that was applied, or edited, is no longer one.
    for playbook_id in (draft.playbook_id, ""):
        if len(found) < len(wanted):
            async for product in executor.list_products(draft.project_id, playbook_id=playbook_id):
                if product.id in wanted:
                    found[product.id] = product
                if len(found) == len(wanted):
                    break
    return found
