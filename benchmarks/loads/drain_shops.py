"""Create one run for each of many shops while no executor works on them, then watch all to their ends.

`work` of the spec: "preview" of three products, or "apply" of ten. With `prepare` it only prepares the shops, which
needs a running executor.
"""

import asyncio
import time
from typing import Any

import grpc
from playbooks.executor.v1.catalog_service_pb2_grpc import CatalogServiceStub
from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2 import CreateRunRequest, ListRunsRequest, WatchRunRequest
from playbooks.runs.v1.runs_service_pb2_grpc import RunsServiceStub

from benchmarks.harness.load import receive, send
from benchmarks.loads.create import metadata
from benchmarks.loads.shops import APPLIED, AT_ONCE, PREVIEWED, Shop, create_shops

TIMEOUT = 120  # seconds a stream


class Client:
    """Creates runs and watches each to its end."""

    def __init__(self, channel: grpc.aio.Channel, spec: dict[str, Any]) -> None:
        self._stub = RunsServiceStub(channel)
        self._metadata = metadata(spec)
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def create(self, wanted: CreateRunRequest) -> Run:
        """Create a run. Raises RuntimeError when it existed."""
        async with self._slots:
            answer = await self._stub.CreateRun(wanted, metadata=self._metadata, timeout=TIMEOUT)
        if not answer.created:
            raise RuntimeError(f"{wanted.idempotency_key} made no run of its own")
        return answer.run

    async def watch(self, run: Run, watching: asyncio.Event) -> Run:
        """Watch a run to its end and return it; `watching` is set at the first message."""
        asked = WatchRunRequest(project_id=run.project_id, run_id=run.id)
        async for message in self._stub.WatchRun(asked, metadata=self._metadata, timeout=TIMEOUT):
            watching.set()
            run = message.run
        return run

    async def preview_of(self, shop: Shop) -> Run:
        """Return the shop's preview."""
        asked = ListRunsRequest(project_id=shop.project, run_type=Run.PREVIEW_GENERATE)
        async with self._slots:
            (run,) = (await self._stub.ListRuns(asked, metadata=self._metadata, timeout=TIMEOUT)).runs
        return run


async def prepare(client: Client, shops: list[Shop], work: str) -> None:
    """Create the shops, and for applies a preview of all products of each."""
    await create_shops(shops, APPLIED)
    if work == "apply":
        runs = await asyncio.gather(*(client.create(shop.preview("preview", APPLIED)) for shop in shops))
        ended = await asyncio.gather(*(client.watch(run, asyncio.Event()) for run in runs))
        _require(all(run.result.draft_generated == APPLIED for run in ended), "not every preview is whole")
    send("prepared")


async def drain(client: Client, shops: list[Shop], work: str) -> None:
    """Create the runs and report it; then report when the last terminal state was received."""
    if work == "apply":
        previews = await asyncio.gather(*map(client.preview_of, shops))
        wanted = [shop.apply("drained", preview) for shop, preview in zip(shops, previews, strict=True)]
    else:
        wanted = [shop.preview("drained", PREVIEWED) for shop in shops]
    runs = await asyncio.gather(*map(client.create, wanted))
    begun = [asyncio.Event() for _ in runs]
    watches = [asyncio.create_task(client.watch(*pair)) for pair in zip(runs, begun, strict=True)]
    for event in begun:
        await event.wait()
    send("filled")
    ended = await asyncio.gather(*watches)
    when = time.monotonic()
    if work == "apply":
        _require(all(run.result.updated == APPLIED for run in ended), "not every APPLY wrote its products")
    else:
        _require(all(run.result.draft_generated == PREVIEWED and run.ai_used for run in ended), "a preview wrote less")
    send({"ended": when, "read": len(ended), "successful": all(run.status == Run.SUCCEEDED for run in ended)})


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise RuntimeError(message)


async def main(spec: dict[str, Any]) -> None:
    """Prepare the shops, or drain their runs."""
    async with (
        grpc.aio.insecure_channel(spec["target"]) as channel,
        grpc.aio.insecure_channel(spec["executor_target"]) as executor,
    ):
        catalog = CatalogServiceStub(executor)
        shops = [Shop(catalog, project, metadata(spec)) for project in spec["shops"]]
        await (prepare if spec.get("prepare") else drain)(Client(channel, spec), shops, spec["work"])


if __name__ == "__main__":
    asyncio.run(main(receive()))
