"""Many watchers of many runs, on several connections.

Asked `{"watch": [[project, run id], ...]}` it opens a stream for each and answers when every one has its snapshot.
Asked `"window"` it answers with what arrived since the last question, asked `"end"`, when all streams have ended,
with what was wrong with them.
"""

import asyncio
import itertools
import time
from dataclasses import dataclass, field
from typing import Any

import grpc
from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2 import WatchRunRequest, WatchRunResponse
from playbooks.runs.v1.runs_service_pb2_grpc import RunsServiceStub

from benchmarks.harness.load import receive, send

TIMEOUT = 300  # seconds a stream may last
OPENING = 64  # streams on their way at once


@dataclass
class Watchers:
    """All streams. Each of them must be gapless and end with a run that SUCCEEDED."""

    stubs: "itertools.cycle[RunsServiceStub]"
    metadata: tuple[tuple[str, str], ...]
    opening: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(OPENING))
    streams: list["asyncio.Task[None]"] = field(default_factory=list)
    ages: list[float] = field(default_factory=list)  # milliseconds, of the changes since the last question
    ended: int = 0
    problems: list[str] = field(default_factory=list)

    async def watch(self, runs: list[list[str]]) -> None:
        """Open a stream for each of `runs`; all have their snapshots when this returns."""
        opened = [asyncio.Event() for _ in runs]
        for (project, run_id), event in zip(runs, opened, strict=True):
            self.streams.append(asyncio.create_task(self._follow(project, run_id, event)))
        await asyncio.gather(*(event.wait() for event in opened))

    async def _follow(self, project: str, run_id: str, opened: asyncio.Event) -> None:
        run, position = Run(), 0
        try:
            async with self.opening:
                request = WatchRunRequest(project_id=project, run_id=run_id)
                call = next(self.stubs).WatchRun(request, metadata=self.metadata, timeout=TIMEOUT)
                messages = aiter(call)  # type: ignore[var-annotated, arg-type]  # the stubs know only `async for`
                run = (await anext(messages)).run
                position = run.sequence
                opened.set()
            async for message in messages:
                now = time.time_ns()
                run = message.run
                if message.kind == WatchRunResponse.UPDATED:
                    position += 1
                    self.ages.append((now - run.updated_at.ToNanoseconds()) / 1e6)
                if run.sequence != position:
                    self.problems.append(f"{run_id} is at {run.sequence} after {position - 1}")
                    position = run.sequence
            if run.status != Run.SUCCEEDED:
                self.problems.append(f"{run_id} ended {Run.Status.Name(run.status)} {run.error_code}")
        except grpc.aio.AioRpcError as error:
            self.problems.append(f"{run_id} after {position}: {error.code()} {error.details()}")
        finally:
            self.ended += 1
            opened.set()

    def window(self) -> dict[str, Any]:
        """Return the ages of the changes that arrived since the last question, and what is open."""
        ages, self.ages = self.ages, []
        return {**self.open(), "ages": ages, "cpu": time.process_time()}

    def open(self) -> dict[str, Any]:
        """Return how many streams are open, and what is wrong."""
        return {"open": len(self.streams) - self.ended, "problems": self.problems}

    async def end(self) -> dict[str, Any]:
        """Wait for the end of all streams."""
        await asyncio.gather(*self.streams)
        return {"ended": self.ended, "problems": self.problems}


async def run(spec: dict[str, Any]) -> None:
    """Answer what the benchmark asks until it asks for the end."""
    options = (("grpc.use_local_subchannel_pool", 1),)  # a connection each
    channels = [grpc.aio.insecure_channel(spec["target"], options=options) for _ in range(spec["connections"])]
    watchers = Watchers(
        itertools.cycle([RunsServiceStub(channel) for channel in channels]),
        (("authorization", f"Bearer {spec['token']}"),),
    )
    while True:
        asked = await asyncio.to_thread(receive)
        if asked == "window":
            send(watchers.window())
        elif asked == "end":
            send(await watchers.end())
            break
        else:
            await watchers.watch(asked["watch"])
            send(watchers.open())
    for channel in channels:
        await channel.close()


if __name__ == "__main__":
    asyncio.run(run(receive()))
