"""A project of its own on a running stack, with everything a test does to it."""

import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import httpx2
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from playbooks.executor.v1 import catalog_service_pb2 as catalog
from playbooks.executor.v1 import executor_service_pb2 as executor
from playbooks.executor.v1.catalog_service_pb2_grpc import CatalogServiceStub
from playbooks.executor.v1.executor_service_pb2_grpc import ExecutorServiceStub
from playbooks.runs.v1 import runs_service_pb2 as pb
from playbooks.runs.v1.run_pb2 import Draft, PlaybookRules, Run, RunItem, RunMeta
from playbooks.runs.v1.runs_service_pb2_grpc import RunsServiceStub

from devstack.stack import Stack
from tests.support.http import client
from tests.support.runs import TERMINAL

TITLES = "missing_seo_title"
DESCRIPTIONS = "missing_seo_description"
DEADLINE = 30  # seconds of a call; far beyond what any takes


@dataclass
class Channels:
    """Channels to every replica of a stack."""

    runs: list[grpc.aio.Channel]
    executors: list[grpc.aio.Channel]

    @classmethod
    def to(cls, stack: Stack) -> "Channels":
        return cls(
            [grpc.aio.insecure_channel(replica.target) for replica in stack.runs],
            [grpc.aio.insecure_channel(replica.target) for replica in stack.executors],
        )

    async def close(self) -> None:
        for channel in (*self.runs, *self.executors):
            await channel.close()


class Shop:
    """One project and its callers. `replica` picks the runs_service that is called."""

    def __init__(self, stack: Stack, channels: Channels, project: str | None = None) -> None:
        self.stack = stack
        self.channels = channels
        self.project = project or f"shop-{uuid4().hex[:12]}"
        self.executor = ExecutorServiceStub(channels.executors[0])
        self.catalog = CatalogServiceStub(channels.executors[0])

    def runs(self, replica: int = 0) -> RunsServiceStub:
        return RunsServiceStub(self.channels.runs[replica])

    def auth(self, role: str = "OWNER", project: str | None = None, user: str = "tester") -> dict[str, Any]:
        token = self.stack.token(project or self.project, role, user)
        return {"metadata": (("authorization", f"Bearer {token}"),), "timeout": DEADLINE}

    def http(self, role: str = "OWNER", user: str = "tester") -> httpx2.AsyncClient:
        """Return a client of the stack's gateway, for paths within this project's playbooks."""
        assert self.stack.gateway is not None
        url = f"{self.stack.gateway.url}/api/projects/{self.project}/automation-playbooks/"
        return client(url, self.stack.token(self.project, role, user))

    # Catalog

    async def open(
        self, *, plan: catalog.Project.Plan.ValueType = catalog.Project.BUSINESS, limit: int | None = None
    ) -> None:
        """Make the project as the platform does, which says what it pays for."""
        request = catalog.PutProjectRequest(project_id=self.project, plan=plan, ai_daily_limit=limit)
        await self.catalog.PutProject(request, **self.auth(project="*"))

    async def stock(self, count: int, *, prefix: str = "", **fields: str) -> list[str]:
        """Put `count` products without SEO fields (unless given); return their ids. Ids are unique to this shop."""
        products = [
            catalog.Product(
                id=(product_id := self.product_id(number, prefix)),
                title=f"Thing {number}",
                description=f"<p>Good. Article {product_id}</p>",  # what the made-up OpenAI counts it under
                **fields,
            )
            for number in range(1, count + 1)
        ]
        for start in range(0, count, 500):
            request = catalog.PutProductsRequest(project_id=self.project, products=products[start : start + 500])
            await self.catalog.PutProducts(request, **self.auth())
        return [product.id for product in products]

    def product_id(self, number: int, prefix: str = "") -> str:
        return f"{self.project}-{prefix}{number:05}"

    async def put(self, **fields: str) -> None:
        await self.catalog.PutProducts(
            catalog.PutProductsRequest(project_id=self.project, products=[catalog.Product(**fields)]), **self.auth()
        )

    async def delete(self, *product_ids: str) -> None:
        await self.catalog.DeleteProducts(
            catalog.DeleteProductsRequest(project_id=self.project, product_ids=product_ids), **self.auth()
        )

    async def products(self, playbook_id: str = "") -> dict[str, catalog.Product]:
        found: dict[str, catalog.Product] = {}
        token = ""
        while True:
            request = catalog.ListProductsRequest(
                project_id=self.project, playbook_id=playbook_id, limit=1000, page_token=token
            )
            page = await self.catalog.ListProducts(request, **self.auth())
            found |= {product.id: product for product in page.products}
            token = page.next_page_token
            if not token:
                return found

    async def ai_used_today(self) -> int:
        request = catalog.GetProjectRequest(project_id=self.project)
        return (await self.catalog.GetProject(request, **self.auth())).project.ai_usage.used

    # Runs

    async def create(
        self, run_type: Run.Type.ValueType, playbook_id: str = TITLES, *, replica: int = 0, **fields: Any
    ) -> pb.CreateRunResponse:
        request = pb.CreateRunRequest(project_id=self.project, playbook_id=playbook_id, run_type=run_type, **fields)
        return await self.runs(replica).CreateRun(request, **self.auth())

    async def get(self, run_id: str, *, replica: int = 0) -> Run:
        request = pb.GetRunRequest(project_id=self.project, run_id=run_id)
        return (await self.runs(replica).GetRun(request, **self.auth())).run

    async def cancel(self, run_id: str, *, replica: int = 0) -> Run:
        request = pb.CancelRunRequest(project_id=self.project, run_id=run_id)
        return (await self.runs(replica).CancelRun(request, **self.auth())).run

    async def retry(self, run_id: str, *, key: str | None = None, replica: int = 0) -> pb.RetryRunResponse:
        request = pb.RetryRunRequest(project_id=self.project, run_id=run_id, idempotency_key=key)
        return await self.runs(replica).RetryRun(request, **self.auth(user="retrier"))

    async def watch(
        self, run_id: str, *, after: int | None = None, replica: int = 0, timeout: float = DEADLINE
    ) -> list[pb.WatchRunResponse]:
        """Watch to the end of the stream."""
        request = pb.WatchRunRequest(project_id=self.project, run_id=run_id, after_sequence=after)
        call = self.runs(replica).WatchRun(request, metadata=self.auth()["metadata"], timeout=timeout)
        try:
            return [message async for message in call]
        finally:
            call.cancel()

    async def ended(self, run: Run, *, timeout: float = DEADLINE) -> Run:
        """Return the run once it has ended."""
        last = (await self.watch(run.id, timeout=timeout))[-1].run
        assert last.status in TERMINAL
        return last

    async def preview(
        self, playbook_id: str = TITLES, *, rules: PlaybookRules | None = None, sample: int | None = None, **fields: Any
    ) -> Run:
        meta = RunMeta(rules=rules, sample_size=sample)
        return await self.ended((await self.create(Run.PREVIEW_GENERATE, playbook_id, meta=meta, **fields)).run)

    async def draft_run(self, after: Run, **fields: Any) -> Run:
        fields = {"scope_id": after.scope_id, "rules_hash": after.rules_hash, **fields}
        return await self.ended((await self.create(Run.DRAFT_GENERATE, after.playbook_id, **fields)).run)

    async def apply(self, after: Run, **fields: Any) -> Run:
        fields = {"scope_id": after.scope_id, "rules_hash": after.rules_hash, **fields}
        return await self.ended((await self.create(Run.APPLY, after.playbook_id, **fields)).run)

    # What runs made

    async def draft(self, draft_id: str) -> Draft:
        request = executor.GetDraftRequest(project_id=self.project, draft_id=draft_id)
        return (await self.executor.GetDraft(request, **self.auth())).draft

    async def latest_draft(self, playbook_id: str = TITLES) -> Draft:
        request = executor.GetLatestDraftRequest(project_id=self.project, playbook_id=playbook_id)
        return (await self.executor.GetLatestDraft(request, **self.auth())).draft

    async def items(self, run: Run) -> dict[str, RunItem]:
        request = executor.ListRunItemsRequest(project_id=self.project, run_id=run.id, limit=1000)
        page = await self.executor.ListRunItems(request, **self.auth())
        return {item.product_id: item for item in page.items}


NewShop = Callable[[], Shop]


@asynccontextmanager
async def open_shop(stack: Stack) -> AsyncIterator[Shop]:
    """Enter a new project on the BUSINESS plan, without products, with channels of its own."""
    channels = Channels.to(stack)
    try:
        shop = Shop(stack, channels)
        await shop.open()
        yield shop
    finally:
        await channels.close()


def scope_of(project: str, playbook_id: str, product_ids: Iterable[str]) -> str:
    """The contract's formula, written down a second time to check the first."""
    text = f"{project}:{playbook_id}:{','.join(sorted(product_ids))}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def hash_of(normalized: dict[str, Any]) -> str:
    text = json.dumps(normalized, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Refusal:
    """What a refused call said."""

    code: grpc.StatusCode
    message: str
    reason: str
    domain: str
    metadata: dict[str, str]
    fields: dict[str, str]  # violations: field to description


def refusal(error: grpc.aio.AioRpcError) -> Refusal:
    info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    status = rpc_status.from_call(error)
    assert status is not None, f"no details: {error!r}"
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(bad_request)
    return Refusal(
        error.code(),
        error.details() or "",
        info.reason,
        info.domain,
        dict(info.metadata),
        {violation.field: violation.description for violation in bad_request.field_violations},
    )


def log_lines(log: Path, *words: str) -> list[dict[str, Any]]:
    """Return the JSON log lines that have all `words`, the first of them in the message."""
    found = []
    for line in log.read_text().splitlines():
        if line.startswith("{") and all(word in line for word in words):
            record = json.loads(line)
            if words[0] in record["message"]:
                found.append(record)
    return found


def logged(stack: Stack, *words: str, timeout: float = 30.0) -> list[dict[str, Any]]:
    """Return the lines with all `words` in any replica's log, waiting until there is one."""
    until = time.monotonic() + timeout
    while True:
        lines = [line for service in (*stack.runs, *stack.executors) for line in log_lines(service.log, *words)]
        if lines or time.monotonic() > until:
            return lines
