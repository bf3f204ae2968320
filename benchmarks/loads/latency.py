"""One run at a time: CreateRun, WatchRun, until the terminal state is received."""

import asyncio
import time
from typing import Any

import grpc
from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2 import WatchRunRequest
from playbooks.runs.v1.runs_service_pb2_grpc import RunsServiceStub

from benchmarks.harness.load import hear, tell
from benchmarks.loads.create import TIMEOUT, metadata, request


async def main(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the seconds that each run took after the warm-up."""
    times: list[float] = []
    auth = metadata(spec)
    async with grpc.aio.insecure_channel(spec["target"]) as channel:
        stub = RunsServiceStub(channel)
        for number in range(spec["warmup"] + spec["count"]):
            wanted = request(spec, number)
            started = time.perf_counter()
            run = (await stub.CreateRun(wanted, metadata=auth, timeout=TIMEOUT)).run
            asked = WatchRunRequest(project_id=spec["project"], run_id=run.id)
            call = stub.WatchRun(asked, metadata=auth, timeout=TIMEOUT)
            async for message in call:
                run = message.run
                if run.status == Run.SUCCEEDED:
                    break
            if number >= spec["warmup"]:
                times.append(time.perf_counter() - started)
            if run.status != Run.SUCCEEDED:
                raise RuntimeError(f"a run did not succeed: {run}")
            call.cancel()
    return {"times": times}


if __name__ == "__main__":
    tell(asyncio.run(main(hear())))
