"""Many concurrent CreateRun calls on one channel, a new key each."""

import asyncio
import time
from typing import Any

import grpc
from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2 import CreateRunRequest
from playbooks.runs.v1.runs_service_pb2_grpc import RunsServiceStub

from benchmarks.harness.load import receive, send

TIMEOUT = 30  # seconds a call


def metadata(spec: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return what to send with each call."""
    return (("authorization", f"Bearer {spec['token']}"),)


def request(spec: dict[str, Any], number: int) -> CreateRunRequest:
    """Return the request for an APPLY run of its own."""
    return CreateRunRequest(
        project_id=spec["project"],
        playbook_id="missing_seo_title",
        run_type=Run.APPLY,
        scope_id=spec["scope"],
        rules_hash=spec["rules"],
        idempotency_key=f"{spec['keys']}-{number}",
    )


async def create(channel: grpc.aio.Channel, spec: dict[str, Any], start: int, end: int) -> list[str]:
    """Create runs with the numbers from `start` to `end`, `concurrency` at a time; return their ids.

    Raises RuntimeError when a call makes no run of its own, grpc.RpcError when one fails.
    """
    call, auth = RunsServiceStub(channel).CreateRun, metadata(spec)
    numbers, ids = iter(range(start, end)), []

    async def one_after_another() -> None:
        for number in numbers:
            wanted = request(spec, number)
            response = await call(wanted, metadata=auth, timeout=TIMEOUT)
            if not response.created or response.run.idempotency_key != wanted.idempotency_key:
                raise RuntimeError(f"{wanted.idempotency_key} made no run of its own: {response}")
            ids.append(response.run.id)

    await asyncio.gather(*(one_after_another() for _ in range(spec["concurrency"])))
    return ids


async def main(spec: dict[str, Any]) -> dict[str, Any]:
    """Make `warmup` calls, then `count` calls that are timed."""
    async with grpc.aio.insecure_channel(spec["target"]) as channel:
        warmup = await create(channel, spec, 0, spec["warmup"])
        started, clock, cpu = time.time(), time.perf_counter(), time.process_time()
        ids = await create(channel, spec, spec["warmup"], spec["warmup"] + spec["count"])
        return {
            "started": started,
            "seconds": time.perf_counter() - clock,
            "client_cpu": time.process_time() - cpu,
            "acknowledged": len(warmup) + len(ids),
        }


if __name__ == "__main__":
    send(asyncio.run(main(receive())))
