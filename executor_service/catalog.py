"""Projects and their products: what CatalogService reads and writes."""

import time
from collections.abc import Sequence

from executor_service.domain.catalog import Product, Project
from executor_service.domain.paging import Page, PageRequest
from executor_service.playbooks import quota
from executor_service.playbooks.playbook import playbook
from executor_service.playbooks.quota import Allowance, Plan
from executor_service.store.products import Products, PutCounts
from executor_service.store.projects import Projects
from executor_service.store.usage import Usage
from servicekit.auth.principals import Role
from servicekit.clock import Clock
from servicekit.errors import Reason, ServiceError
from servicekit.postgres.database import Database
from servicekit.rpc.capacity import Capacity
from servicekit.telemetry.metrics import Metrics

LIMIT = "products"  # in the metric limits_reached


def project_not_found(project_id: str) -> ServiceError:
    """Return the error of a call about a project that does not exist."""
    return ServiceError(
        Reason.PROJECT_NOT_FOUND,
        f"there is no project {project_id!r}; create it with CatalogService.PutProject",
        metadata={"project_id": project_id},
    )


def set_by_platform() -> ServiceError:
    """Return the error of an owner who sets what the project pays for."""
    return ServiceError(
        Reason.ROLE_TOO_LOW,
        'plan and ai_daily_limit are set by the platform: OWNER of "*", or SERVICE; leave both out to create the '
        "project on the default plan, or to leave it as it is",
        metadata={"required_role": Role.OWNER.name, "required_project_id": "*"},
    )


class Catalog:
    """The catalog. Every method may raise ServiceError.

    A project has about `max_products` at most: see Capacity.
    """

    def __init__(
        self, database: Database, clock: Clock, metrics: Metrics, *, default_plan: Plan, max_products: int
    ) -> None:
        self._database = database
        self._clock = clock
        self._default_plan = default_plan
        self._max_products = max_products
        self._capacity = Capacity(max_products, Products(database).number, now=time.monotonic)
        self._refused = metrics.limits_reached.labels(LIMIT)

    async def put_project(
        self, project_id: str, *, plan: Plan | None, ai_daily_limit: int | None, by_platform: bool
    ) -> Project:
        """Create a project on the default plan if there is none, change what is given, and return it.

        A plan without a limit removes the limit. Raises ROLE_TOO_LOW, and creates nothing, when a caller other than the
        platform gives a plan that the project does not have, or a limit.
        """
        async with self._database.transaction() as connection:
            present = await Projects(connection).ensure(Project(project_id, self._default_plan, None))
            if not by_platform:
                if plan not in (None, present.plan) or ai_daily_limit is not None:
                    raise set_by_platform()
                return present
            if plan is None and ai_daily_limit is None:
                return present
            wanted = Project(project_id, plan or present.plan, ai_daily_limit)
            await Projects(connection).update(wanted)
            return wanted

    async def project(self, project_id: str) -> Project:
        """Return a project. Raises PROJECT_NOT_FOUND."""
        project = await Projects(self._database).find(project_id)
        if project is None:
            raise project_not_found(project_id)
        return project

    async def allowance(self, project: Project) -> Allowance:
        """Return the project's AI allowance today."""
        now = self._clock.now()
        used = await Usage(self._database).used(project.id, now.date())
        return Allowance(quota.daily_limit(project.plan, project.ai_daily_limit), used, quota.next_reset(now))

    async def put_products(self, project_id: str, products: Sequence[Product]) -> PutCounts:
        """Create or replace products, all or none. Raises PROJECT_NOT_FOUND, PRODUCT_LIMIT_REACHED."""
        await self._require_room(project_id, products)
        async with self._database.transaction() as connection:
            if not await Projects(connection).share(project_id):
                raise project_not_found(project_id)
            return await Products(connection).put(project_id, products)

    async def _require_room(self, project_id: str, products: Sequence[Product]) -> None:
        if await self._capacity.take(project_id, len(products)):
            return
        present = await Products(self._database).present(project_id, [product.id for product in products])
        new = len({product.id for product in products}) - present  # those that are there may be replaced
        if new and not await self._capacity.take(project_id, new):
            self._refused.inc()
            raise ServiceError(
                Reason.PRODUCT_LIMIT_REACHED,
                f"project {project_id!r} has room for about {self._max_products:,} products, and {new:,} of these are "
                "new; delete some, or ask the operator for a higher EXECUTOR_MAX_PRODUCTS",
                metadata={"project_id": project_id},
            )

    async def delete_products(self, project_id: str, product_ids: Sequence[str]) -> int:
        """Delete products; return how many were there. Raises PROJECT_NOT_FOUND."""
        async with self._database.transaction() as connection:
            if not await Projects(connection).share(project_id):
                raise project_not_found(project_id)
            return await Products(connection).delete(project_id, product_ids)

    async def products(
        self, project_id: str, playbook_id: str, *, limit: int, page_token: str, ids: Sequence[str] = ()
    ) -> Page[Product]:
        """Return a page of products by id; with `playbook_id` only the affected ones, with `ids` only these.

        Raises PROJECT_NOT_FOUND, PAGE_TOKEN_INVALID.
        """
        request = PageRequest(["ListProducts", project_id, playbook_id, *sorted(set(ids))], limit, page_token)
        after = request.after
        await self.project(project_id)
        found = await Products(self._database).page(
            project_id,
            playbook=playbook(playbook_id) if playbook_id else None,
            ids=ids,
            after=after,
            limit=request.size,
        )
        return request.page(found, lambda product: product.id)
