"""Create runs while no executor works on them, then wait until their ends are visible to watchers."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2 import ListRunsRequest, WatchRunRequest
from playbooks.runs.v1.runs_service_pb2_grpc import RunsServiceStub

from benchmarks.harness.load import receive, send
from benchmarks.loads.create import create, metadata
from tests.support.runs import TERMINAL

TIMEOUT = 120  # seconds a stream
WATCHERS = 50  # spread over the runs, the last one included
PAGE = 100
POLL = 0.02  # seconds between looks for the last runs that are still active


class Client:
    """What a client of many runs does: watches some, lists the others."""

    def __init__(self, channel: grpc.aio.Channel, spec: dict[str, Any]) -> None:
        self._stub = RunsServiceStub(channel)
        self._project = spec["project"]
        self._metadata = metadata(spec)

    async def watch(self, run_id: str, watching: asyncio.Event) -> Run.Status.ValueType:
        """Watch a run to its end and return how it ended; `watching` is set at the first message."""
        asked = WatchRunRequest(project_id=self._project, run_id=run_id)
        call = self._stub.WatchRun(asked, metadata=self._metadata, timeout=TIMEOUT)
        try:
            async for message in call:
                watching.set()
                if message.run.status in TERMINAL:
                    return message.run.status
        finally:
            call.cancel()
        raise RuntimeError(f"the stream of {run_id} ended before the run did")

    async def listed(self, status: Run.Status.ValueType, limit: int) -> AsyncIterator[Run]:
        """Yield the project's runs of a status, page by page."""
        asked = ListRunsRequest(project_id=self._project, status=status, limit=limit)
        while True:
            page = await self._stub.ListRuns(asked, metadata=self._metadata, timeout=TIMEOUT)
            for run in page.runs:
                yield run
            if not page.next_page_token:
                return
            asked.page_token = page.next_page_token

    async def any_of(self, status: Run.Status.ValueType) -> bool:
        """Whether there is still a run of this status."""
        asked = ListRunsRequest(project_id=self._project, status=status, limit=1)
        return bool((await self._stub.ListRuns(asked, metadata=self._metadata, timeout=TIMEOUT)).runs)


async def main(spec: dict[str, Any]) -> None:
    """Fill the queue and report it; then report when the last terminal state was visible, and when all were read."""
    async with grpc.aio.insecure_channel(spec["target"]) as channel:
        ids = await create(channel, spec, 0, spec["count"])
        client = Client(channel, spec)
        watched = ids[:: -max(1, len(ids) // WATCHERS)]  # from the last one on
        begun = [asyncio.Event() for _ in watched]
        watches = [asyncio.create_task(client.watch(*pair)) for pair in zip(watched, begun, strict=True)]
        for event in begun:
            await event.wait()
        send("filled")
        statuses = await asyncio.gather(*watches)
        while await client.any_of(Run.QUEUED) or await client.any_of(Run.RUNNING):  # noqa: ASYNC110  # a remote state
            await asyncio.sleep(POLL)
        ended = time.monotonic()
        read = {run.id async for run in client.listed(Run.SUCCEEDED, PAGE)}
        send(
            {
                "ended": ended,
                "all_read": time.monotonic(),
                "read": len(read & set(ids)),
                "successful": set(statuses) == {Run.SUCCEEDED},
            }
        )


if __name__ == "__main__":
    asyncio.run(main(receive()))
