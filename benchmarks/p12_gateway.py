"""P12: what HTTP costs over gRPC: time, CPU of the gateway, memory of an event stream."""

import asyncio
import resource
import time
from collections.abc import Callable
from statistics import median
from uuid import uuid4

import psutil
from playbooks.runs.v1 import runs_service_pb2 as pb
from playbooks.runs.v1.run_pb2 import Run

from benchmarks.harness import Absolute, Claim, Figure, Options, Results, durable_stack, require, run_claim
from benchmarks.loads.http_calls import Connection, open_streams
from benchmarks.loads.processes import cpu_seconds
from benchmarks.loads.runs import PLAYBOOK, Client
from devstack.stack import Stack

READS, CREATES, WARM = 2_000, 300, 100  # calls of a round
STREAMS = 2_000

CLAIM = Claim(
    id="P12",
    title="HTTP",
    work="GetRun and CreateRun over HTTP, against the same calls of the same runs-service over gRPC: one client, one "
    f"connection, one call at a time; and {STREAMS:,} open event streams",
    figures=[
        Figure("p50 that HTTP adds to GetRun, in ms", must=1.0, beyond=0.5, better="lower"),
        Figure("p50 that HTTP adds to CreateRun, in ms", must=1.0, beyond=0.5, better="lower"),
        Figure("gateway CPU of a GetRun, in those of runs-service", must=1.5, beyond=1.0, better="lower"),
        Figure("gateway memory a stream, in kB", must=60, beyond=40, better="lower"),
    ],
)


def measure(options: Options) -> Results:
    """Call over gRPC and HTTP in turns; then open the streams, in as many parts as there are rounds."""
    with durable_stack(http=True, env={"AI_PROVIDER": "offline"}) as stack, Client(stack) as client:
        assert stack.gateway is not None
        project = client.make_shop("http", products=1)
        token = stack.token(project, "OWNER")
        run = client.finished(client.create(project))
        base = _base(project)
        read = pb.GetRunRequest(project_id=project, run_id=run.id)
        call = client.auth(project)
        stack.executors[0].kill()  # it would work on what is created, beside the calls
        added: dict[str, list[float]] = {"GetRun": [], "CreateRun": []}
        p50: dict[str, list[float]] = {}
        cpu: list[float] = []
        with Connection(stack.gateway.target, token) as http:
            pairs: dict[str, tuple[Callable[[], float], Callable[[], float]]] = {
                "GetRun": (
                    lambda: _seconds(lambda: client.runs.GetRun(read, **call)),
                    lambda: http.timed("GET", f"{base}/runs/{run.id}"),
                ),
                "CreateRun": (
                    lambda: _seconds(lambda: client.runs.CreateRun(_new(project), **call)),
                    lambda: http.timed("POST", f"{base}/{PLAYBOOK}/runs", _new_json()),
                ),
            }
            for _ in range(options.rounds):
                for rpc, (over_grpc, over_http) in pairs.items():
                    count = options.size(READS if rpc == "GetRun" else CREATES, 50)
                    _in_turns(over_grpc, over_http, options.size(WARM, 10))
                    before = _cpu(stack)
                    times = _in_turns(over_grpc, over_http, count)
                    if rpc == "GetRun":
                        runs, gateway = (after - start for after, start in zip(_cpu(stack), before, strict=True))
                        cpu.append(gateway / (max(runs, 0.01) / 2))  # runs-service had as many calls over gRPC
                    added[rpc].append(times[1] - times[0])
                    p50.setdefault(f"{rpc}, gRPC", []).append(times[0])
                    p50.setdefault(f"{rpc}, HTTP", []).append(times[1])
        memory = asyncio.run(_memory(stack, client, project, options))
    values = [added["GetRun"], added["CreateRun"], cpu, memory]
    return Results(
        ratios={figure.name: value for figure, value in zip(CLAIM.figures, values, strict=True)},
        absolutes=[Absolute(f"p50 of {name}", "ms", times) for name, times in p50.items()],
        notes=[
            "The HTTP client is a bare socket, so that its own time is none; the gRPC client is grpcio's blocking one.",
            "One call over gRPC, one over HTTP, and so on. No executor lives meanwhile: it would work on new runs.",
            "CPU time from /proc of the same calls; of that of runs-service half, for it had as many over gRPC.",
            "Memory: resident set of the gateway with the streams open, less what it was before, divided by them.",
        ],
    )


async def _memory(stack: Stack, client: Client, project: str, options: Options) -> list[float]:
    """Open the streams on a run that waits for its executor, part by part; return kB a stream of each part."""
    assert stack.gateway is not None
    token, path = stack.token(project, "OWNER"), _base(project)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    run = client.create(project, Run.PREVIEW_GENERATE)
    process = psutil.Process(stack.gateway.pid)
    count = options.size(STREAMS, 100) // options.rounds
    paths = [f"{path}/runs/{run.id}:watch"] * count
    opened = await open_streams(stack.gateway.target, token, paths[:50])
    found = []
    for _ in range(options.rounds):
        before = process.memory_info().rss
        opened += await open_streams(stack.gateway.target, token, paths)
        found.append((process.memory_info().rss - before) / 1_000 / count)
    for writer in opened:
        writer.close()
    require(stack.gateway.alive, "the gateway has ended")
    return found


def _base(project: str) -> str:
    return f"/api/projects/{project}/automation-playbooks"


def _in_turns(first: Callable[[], float], second: Callable[[], float], count: int) -> tuple[float, float]:
    """Call one and the other `count` times; return the median of each in ms."""
    times = [(first(), second()) for _ in range(count)]
    return median(one for one, _ in times) * 1000, median(other for _, other in times) * 1000


def _cpu(stack: Stack) -> tuple[float, float]:
    assert stack.gateway is not None
    return cpu_seconds(stack.runs[0].pid), cpu_seconds(stack.gateway.pid)


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _new(project: str) -> pb.CreateRunRequest:
    return pb.CreateRunRequest(
        project_id=project,
        playbook_id=PLAYBOOK,
        run_type=Run.PREVIEW_GENERATE,
        idempotency_key=uuid4().hex,
        request_id=str(uuid4()),  # as RunsClient sends one, and the gateway for each call over HTTP
    )


def _new_json() -> dict[str, str]:
    return {"runType": "PREVIEW_GENERATE", "idempotencyKey": uuid4().hex}


if __name__ == "__main__":
    run_claim(CLAIM, measure)
