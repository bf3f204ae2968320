"""What watchers were sent, connection by connection, and etcd's words for what must be true of it: ordered, unique,
reliable, resumable."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2 import WatchRunRequest, WatchRunResponse
from playbooks.runs.v1.runs_service_pb2_grpc import RunsServiceStub

from tests.support.runs import TERMINAL

SNAPSHOT, UPDATED, HEARTBEAT = WatchRunResponse.SNAPSHOT, WatchRunResponse.UPDATED, WatchRunResponse.HEARTBEAT


@dataclass
class Stream:
    """One WatchRun call: the sequence it asked to go on after, what it was sent, how it ended."""

    after: int | None
    messages: list[WatchRunResponse] = field(default_factory=list)
    error: grpc.StatusCode | None = None  # None: it goes on, ended well, or we left it


class RecordingStub:
    """A stub of RunsService that keeps what each WatchRun call is sent, by run, before any client makes sense of it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = RunsServiceStub(channel)
        self.GetRun = self._stub.GetRun
        self.streams: dict[str, list[Stream]] = {}

    def WatchRun(self, request: WatchRunRequest, **options: Any) -> "_RecordedCall":
        stream = Stream(request.after_sequence if request.HasField("after_sequence") else None)
        self.streams.setdefault(request.run_id, []).append(stream)
        return _RecordedCall(self._stub.WatchRun(request, **options), stream)


class _RecordedCall:
    def __init__(self, call: Any, stream: Stream) -> None:
        self._call = call
        self._stream = stream
        self.cancel = call.cancel

    async def read(self) -> Any:
        try:
            message = await self._call.read()
        except grpc.aio.AioRpcError as error:
            self._stream.error = error.code()
            raise
        if isinstance(message, WatchRunResponse):
            self._stream.messages.append(message)
        return message


def broken_words(streams: Sequence[Stream], history: Sequence[Run]) -> list[str]:
    """Return the broken promises of one watcher's `streams` of one run, whose whole `history` the database has.

    The watcher began with the first stream, and went on with each further one where it was cut.
    """
    broken: list[str] = []
    position = streams[0].after  # the last sequence the watcher has; None: it waits for its snapshot
    seen: list[Run] = []
    for number, stream in enumerate(streams):
        where = f"stream {number} after {stream.after}"
        if stream.after != position:
            broken.append(f"resumable: {where} was to go on after {position}")
        for message in stream.messages:
            sequence = message.run.sequence
            if message.kind == HEARTBEAT:
                if sequence != position:
                    broken.append(f"ordered: {where}: a heartbeat at {sequence} for a watcher at {position}")
                continue
            if (message.kind == SNAPSHOT) != (position is None):
                broken.append(f"resumable: {where}: a {WatchRunResponse.Kind.Name(message.kind)} at {sequence}")
            if position is not None and sequence != position + 1:
                word = "reliable" if sequence > position + 1 else "unique" if message.run in seen else "ordered"
                broken.append(f"{word}: {where}: {sequence} came after {position}")
            position = sequence
            seen.append(message.run)
    if not seen:
        return [*broken, "reliable: nothing was seen"]
    if seen != list(history[-len(seen) :]):
        broken.append("reliable: what was seen is not what happened")
    if streams[0].after is not None and len(seen) != len(history) - streams[0].after:
        broken.append(f"reliable: {len(seen)} changes seen, {len(history)} happened")
    if seen[-1].status not in TERMINAL or any(run.status in TERMINAL for run in seen[:-1]):
        broken.append("reliable: it does not end with the run's end")
    return broken
