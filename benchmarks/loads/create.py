"""Many concurrent CreateRun calls on one channel, a new key each."""

import asyncio
import itertools
import time
from typing import Any

import grpc
from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2 import CreateRunRequest
from playbooks.runs.v1.runs_service_pb2_grpc import RunsServiceStub

from benchmarks.harness.load import hear, tell

TIMEOUT = 30  # seconds a call


async def run(spec: dict[str, Any]) -> dict[str, Any]:
    """Make `warmup` calls, then `count` calls that are timed, `concurrency` at a time; raise if one fails."""
    metadata = (("authorization", f"Bearer {spec['token']}"),)
    async with grpc.aio.insecure_channel(spec["target"]) as channel:
        call = RunsServiceStub(channel).CreateRun

        async def some(numbers: "itertools.count[int]", end: int) -> None:
            while (number := next(numbers)) < end:
                key = f"{spec['keys']}-{number}"
                request = CreateRunRequest(
                    project_id=spec["project"],
                    playbook_id="missing_seo_title",
                    run_type=Run.APPLY,
                    scope_id=spec["scope"],
                    rules_hash=spec["rules"],
                    idempotency_key=key,
                )
                response = await call(request, metadata=metadata, timeout=TIMEOUT)
                if not response.created or response.run.idempotency_key != key:
                    raise RuntimeError(f"{key} made no run of its own: {response}")

        async def all_of(start: int, end: int) -> None:
            numbers = itertools.count(start)
            await asyncio.gather(*(some(numbers, end) for _ in range(spec["concurrency"])))

        warmup, count = spec["warmup"], spec["count"]
        await all_of(0, warmup)
        started, clock, cpu = time.time(), time.perf_counter(), time.process_time()
        await all_of(warmup, warmup + count)
        return {
            "started": started,
            "seconds": time.perf_counter() - clock,
            "client_cpu": time.process_time() - cpu,
            "acknowledged": warmup + count,
        }


if __name__ == "__main__":
    tell(asyncio.run(run(hear())))
