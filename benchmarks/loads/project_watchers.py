"""Many watchers of many projects, on several connections.

Asked `{"watch": [project, ...]}` it opens a WatchRuns stream for each and answers when every one has its list. Asked
`"window"` it answers with what arrived since the last question and what was wrong with it, asked `"end"` it leaves.
"""

import asyncio
import itertools
import time
from dataclasses import dataclass, field
from typing import Any

import grpc
from playbooks.runs.v1.runs_service_pb2 import WatchRunsRequest, WatchRunsResponse
from playbooks.runs.v1.runs_service_pb2_grpc import RunsServiceStub

from benchmarks.harness.load import receive, send

TIMEOUT = 300  # seconds a stream may last
OPENING = 64  # streams on their way at once


@dataclass
class ProjectWatchers:
    """All streams. In each of them every run that is seen must be gapless."""

    stubs: "itertools.cycle[RunsServiceStub]"
    metadata: tuple[tuple[str, str], ...]
    opening: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(OPENING))
    streams: list["asyncio.Task[None]"] = field(default_factory=list)
    ages: list[float] = field(default_factory=list)  # milliseconds, of the changes since the last question
    problems: list[str] = field(default_factory=list)

    async def watch(self, projects: list[str]) -> None:
        """Open a stream for each of `projects`; all have their lists when this returns."""
        opened = [asyncio.Event() for _ in projects]
        for project, event in zip(projects, opened, strict=True):
            self.streams.append(asyncio.create_task(self._follow(project, event)))
        await asyncio.gather(*(event.wait() for event in opened))

    async def _follow(self, project: str, opened: asyncio.Event) -> None:
        sequences: dict[str, int] = {}  # by run
        try:
            await self.opening.acquire()
            request = WatchRunsRequest(project_id=project)
            call = next(self.stubs).WatchRuns(request, metadata=self.metadata, timeout=TIMEOUT)
            async for message in call:
                now = time.time_ns()
                run = message.run
                if message.kind == WatchRunsResponse.BOOKMARK:
                    if not opened.is_set():
                        opened.set()
                        self.opening.release()
                    continue
                if message.kind == WatchRunsResponse.UPDATED:
                    self.ages.append((now - run.updated_at.ToNanoseconds()) / 1e6)
                    if run.sequence != sequences.get(run.id, 0) + 1:
                        self.problems.append(f"{run.id} is at {run.sequence} after {sequences.get(run.id)}")
                sequences[run.id] = run.sequence
        except grpc.aio.AioRpcError as error:
            self.problems.append(f"{project}: {error.code()} {error.details()}")
        finally:
            opened.set()

    def window(self) -> dict[str, Any]:
        """Return the ages of the changes that arrived since the last question, how many streams are open, and what is
        wrong."""
        ages, self.ages = self.ages, []
        return {"open": sum(not stream.done() for stream in self.streams), "problems": self.problems, "ages": ages}


async def run(spec: dict[str, Any]) -> None:
    """Answer what the benchmark asks until it asks for the end."""
    options = (("grpc.use_local_subchannel_pool", 1),)  # a connection each
    channels = [grpc.aio.insecure_channel(spec["target"], options=options) for _ in range(spec["connections"])]
    watchers = ProjectWatchers(
        itertools.cycle([RunsServiceStub(channel) for channel in channels]),
        (("authorization", f"Bearer {spec['token']}"),),
    )
    while (asked := await asyncio.to_thread(receive)) != "end":
        if asked != "window":
            await watchers.watch(asked["watch"])
        send(watchers.window())
    for stream in watchers.streams:
        stream.cancel()
    for channel in channels:
        await channel.close()


if __name__ == "__main__":
    asyncio.run(run(receive()))
