"""What the soak asks for: mostly cheap previews, and among them whole lives of shops, which ask the AI and write."""

import asyncio
from collections import Counter, deque

from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2 import CreateRunRequest

from tests.support.shop import TITLES, Shop

EVERY = 10  # of so many runs one begins the life of a shop; two more follow
PRODUCTS = 6  # of such a shop
AT_ONCE = 10  # calls while shops are prepared
NEXT = {Run.PREVIEW_GENERATE: Run.DRAFT_GENERATE, Run.DRAFT_GENERATE: Run.APPLY}


class Workload:
    """Previews of `common`, whose suggestions are stored; `shops` have a preview, then a draft, then an apply each."""

    def __init__(self, common: Shop, shops: list[Shop]) -> None:
        self._common = common
        self._unborn = deque(shop.project for shop in shops)
        self._projects = set(self._unborn)
        self._next: deque[CreateRunRequest] = deque()
        self.ends: Counter[tuple[str, str]] = Counter()  # by type and status

    @classmethod
    async def prepared(cls, common: Shop, lives: int) -> "Workload":
        """Return a workload with so many shops, each with products that need the AI."""
        await common.open()
        await common.stock(3)
        await common.preview()
        shops = [Shop(common.stack, common.channels) for _ in range(lives)]

        async def prepare(shop: Shop) -> None:
            await shop.open()
            await shop.stock(PRODUCTS)

        for start in range(0, lives, AT_ONCE):
            await asyncio.gather(*map(prepare, shops[start : start + AT_ONCE]))
        return cls(common, shops)

    def request(self, number: int) -> CreateRunRequest:
        """Return the run to ask for."""
        if self._next:
            return self._next.popleft()
        lives = number % EVERY == 0 and self._unborn
        project = self._unborn.popleft() if lives else self._common.project
        return CreateRunRequest(project_id=project, playbook_id=TITLES, run_type=Run.PREVIEW_GENERATE)

    def ended(self, run: Run) -> None:
        """Count an end, and let a shop's life go on."""
        self.ends[Run.Type.Name(run.run_type), Run.Status.Name(run.status)] += 1
        following = NEXT.get(run.run_type)
        if following and run.project_id in self._projects and run.status == Run.SUCCEEDED:
            self._next.append(
                CreateRunRequest(
                    project_id=run.project_id,
                    playbook_id=TITLES,
                    run_type=following,
                    scope_id=run.scope_id,
                    rules_hash=run.rules_hash,
                )
            )
