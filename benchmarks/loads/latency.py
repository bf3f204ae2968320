"""One run at a time: CreateRun, WatchRun, until the terminal state is received.

`work` of the spec: "nothing" is an APPLY on an empty scope, which writes nothing. "preview" is a preview of three
products that no run has seen before. "apply" is an APPLY that writes ten products.
"""

import asyncio
import time
from typing import Any

import grpc
from playbooks.executor.v1.catalog_service_pb2_grpc import CatalogServiceStub
from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2 import CreateRunRequest, WatchRunRequest
from playbooks.runs.v1.runs_service_pb2_grpc import RunsServiceStub

from benchmarks.harness.load import receive, send
from benchmarks.loads.create import TIMEOUT, metadata, request
from benchmarks.loads.shops import APPLIED, PREVIEWED, Shop


class Client:
    """Creates runs and follows each to its end."""

    def __init__(self, channel: grpc.aio.Channel, spec: dict[str, Any]) -> None:
        self._stub = RunsServiceStub(channel)
        self._metadata = metadata(spec)

    async def finished(self, wanted: CreateRunRequest) -> Run:
        """Create a run and watch it to its end. Raises RuntimeError unless it SUCCEEDED."""
        run = (await self._stub.CreateRun(wanted, metadata=self._metadata, timeout=TIMEOUT)).run
        asked = WatchRunRequest(project_id=wanted.project_id, run_id=run.id)
        call = self._stub.WatchRun(asked, metadata=self._metadata, timeout=TIMEOUT)
        async for message in call:
            run = message.run
            if run.status == Run.SUCCEEDED:
                break
        call.cancel()
        if run.status != Run.SUCCEEDED:
            raise RuntimeError(f"a run did not succeed: {run}")
        return run


async def measure_nothing(client: Client, spec: dict[str, Any]) -> list[float]:
    """Return the seconds of each APPLY on an empty scope."""
    times = []
    for number in range(spec["warmup"] + spec["count"]):
        wanted = request(spec, number)
        started = time.perf_counter()
        await client.finished(wanted)
        times.append(time.perf_counter() - started)
    return times


async def measure_preview(client: Client, spec: dict[str, Any], shop: Shop) -> list[float]:
    """Return the seconds of each preview. Before each, untimed, the shop gets other products."""
    times = []
    for number in range(spec["warmup"] + spec["count"]):
        await shop.put_products(PREVIEWED, version=f"{spec['keys']}-{number}")
        wanted = shop.preview(f"{spec['keys']}-{number}", PREVIEWED)
        started = time.perf_counter()
        run = await client.finished(wanted)
        times.append(time.perf_counter() - started)
        if run.result.draft_generated != PREVIEWED or not run.ai_used:
            raise RuntimeError(f"a preview did not write {PREVIEWED} suggestions: {run}")
    return times


async def measure_apply(client: Client, spec: dict[str, Any], shop: Shop) -> list[float]:
    """Return the seconds of each APPLY. Before each, untimed, the products lose their titles again."""
    await shop.put_products(APPLIED)
    preview = await client.finished(shop.preview(f"{spec['keys']}-preview", APPLIED))
    times = []
    for number in range(spec["warmup"] + spec["count"]):
        await shop.put_products(APPLIED)
        wanted = shop.apply(f"{spec['keys']}-{number}", preview)
        started = time.perf_counter()
        run = await client.finished(wanted)
        times.append(time.perf_counter() - started)
        if run.result.updated != APPLIED:
            raise RuntimeError(f"an APPLY did not write {APPLIED} products: {run}")
    return times


async def main(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the seconds of each run after the warm-up."""
    async with grpc.aio.insecure_channel(spec["target"]) as channel:
        client = Client(channel, spec)
        if spec["work"] == "nothing":
            times = await measure_nothing(client, spec)
        else:
            async with grpc.aio.insecure_channel(spec["executor_target"]) as executor:
                shop = Shop(CatalogServiceStub(executor), spec["project"], metadata(spec))
                measure = {"preview": measure_preview, "apply": measure_apply}[spec["work"]]
                times = await measure(client, spec, shop)
    return {"times": times[spec["warmup"] :]}


if __name__ == "__main__":
    send(asyncio.run(main(receive())))
