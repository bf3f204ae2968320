"""A runs_service that reports its memory, tasks and subscriptions.

with measured(stack.runs[0]) as service:  # runs in its place
    before = await service.holdings()
"""

import asyncio
import contextlib
import ctypes
import functools
import gc
import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from devstack.ports import HOST, free_ports
from devstack.process import Process
from devstack.services import Service
from runs_service import app
from runs_service.settings import RunsSettings
from runs_service.watching.hub import Watchers
from servicekit.config import settings
from servicekit.telemetry import logs

PORT = "MEASURES_PORT"
COLLECT, LOOK = b"collect\n", b"look\n"


@dataclass(frozen=True)
class Holdings:
    """What a process has in hand."""

    native: int  # bytes handed out by malloc: to gRPC, to libpq, and to Python for all but its small objects
    objects: int  # blocks of Python's own allocator
    tasks: int
    subscriptions: int


class MeasuredRuns(Process):
    """A replica of runs_service that reports its memory, tasks and subscriptions."""

    def __init__(self, service: Service) -> None:
        super().__init__(service.name, service.log)
        self._service = service
        (self._port,) = free_ports(1)

    def command(self) -> list[str | Path]:
        return [sys.executable, "-m", __name__]

    def environment(self) -> Mapping[str, str]:
        return {**self._service.env, PORT: str(self._port)}

    def is_ready(self) -> bool:
        return self._service.is_ready()

    async def holdings(self, *, collected: bool = True) -> Holdings:
        """Return its figures; `collected`: after a garbage collection, which takes a while."""
        reader, writer = await asyncio.open_connection(HOST, self._port)
        try:
            writer.write(COLLECT if collected else LOOK)
            return Holdings(**json.loads(await reader.read()))
        finally:
            writer.close()


@contextlib.contextmanager
def measured(service: Service) -> Iterator[MeasuredRuns]:
    """Run a measured replica in place of `service` within the block."""
    service.stop()
    with MeasuredRuns(service) as replacement:
        yield replacement
    service.start()
    service.wait_ready()


class _Mallinfo2(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


@functools.cache
def _watchers() -> Watchers:
    # By the task it runs in: what a service is made of is hidden from the garbage collector.
    (task,) = (task for task in asyncio.all_tasks() if task.get_name() == Watchers.__name__)
    watchers: Watchers = task.get_coro().cr_frame.f_locals["self"]  # type: ignore[union-attr]
    return watchers


def _holdings() -> Holdings:
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = _Mallinfo2
    heap = mallinfo2()
    return Holdings(
        native=heap.uordblks + heap.hblkhd,
        objects=sys.getallocatedblocks(),
        tasks=len(asyncio.all_tasks()),
        subscriptions=_watchers().count,
    )


async def _tell(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    if await reader.readline() == COLLECT:
        gc.collect()
    writer.write(json.dumps(asdict(_holdings())).encode())
    writer.close()


async def _serve(loaded: RunsSettings) -> None:
    async with await asyncio.start_server(_tell, HOST, int(os.environ[PORT])):
        await app.serve(loaded)


if __name__ == "__main__":
    environment = settings.load(RunsSettings)
    logs.configure(service=app.NAME, format=environment.log_format, level=environment.log_level)
    asyncio.run(_serve(environment))
