"""P11: how long a second start of the whole stack takes."""

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import grpc
from playbooks.runs.v1 import runs_service_pb2 as pb
from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2_grpc import RunsServiceStub

from benchmarks.harness import Absolute, Claim, Figure, Options, Results, require, run_claim
from benchmarks.loads import runs
from benchmarks.loads.processes import cpu_seconds
from devstack.datadir import DataDir
from devstack.ports import free_ports

COMMAND = Path(sys.executable).with_name("playbook-runs")

CLAIM = Claim(
    id="P11",
    title="Start of the whole stack",
    work="`playbook-runs up` on a data folder that is there already, until its line with `ready`",
    figures=[Figure("seconds to ready", must=4.0, beyond=2.5, better="lower")],
)


@dataclass(frozen=True)
class Start:
    """One start: seconds on the clock since the command was given, and CPU seconds of all processes of the stack."""

    stores: float  # until PostgreSQL accepts connections
    services: float  # until the first service began to serve
    ready: float
    cpu: float


def measure(options: Options) -> Results:
    """Start and stop the stack, once to make its data and then for the figures."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        start(Path(folder))
        starts = [start(Path(folder)) for _ in range(options.rounds)]
    return Results(
        ratios={CLAIM.figures[0].name: [start.ready for start in starts]},
        absolutes=[
            Absolute("CPU time, all processes", "s", [start.cpu for start in starts]),
            Absolute("PostgreSQL accepts connections after", "s", [start.stores for start in starts]),
            Absolute("the first service serves after", "s", [start.services for start in starts]),
        ],
        notes=[
            "A start that made the data came first and does not count: files are cached, bytecode is compiled.",
            "After each start a run is created and watched to its end: ready means ready.",
            "CPU time of the command, of everything it had ended by then, and of everything that runs.",
        ],
    )


def start(folder: Path) -> Start:
    """Start a stack in `folder`, measure, see that it works, and stop it."""
    runs_port, executor_port, http_port = free_ports(3)
    begin, began = time.monotonic(), time.time()
    up = subprocess.Popen(
        [
            COMMAND,
            *("up", "--data-dir", str(folder)),
            *("--runs-port", str(runs_port), "--executor-port", str(executor_port), "--http-port", str(http_port)),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert up.stdout
        line = up.stdout.readline()
        ready = time.monotonic() - begin
        require(line.startswith("ready"), f"`playbook-runs up` printed {line!r}")
        cpu = cpu_seconds(up.pid)
        logs = DataDir(folder)
        stores = _moment(logs.log("postgres"), "accept connections") - began
        services = [_moment(logs.log(f"{kind}-service"), "serving at") - began for kind in ("runs", "executor")]
        _require_working(folder, f"127.0.0.1:{runs_port}")
    finally:
        up.send_signal(signal.SIGTERM)
        code = up.wait(60)
    require(code == 0, f"`playbook-runs up` ended with {code}")
    return Start(stores, min(services), ready, cpu)


def _moment(log: Path, words: str) -> float:
    """Return the time of the log line with `words`, in seconds since 1970."""
    for line in log.read_text().splitlines():
        if words in line:
            when = json.loads(line)["timestamp"] if line.startswith("{") else " ".join(line.split()[:2]) + "+00:00"
            return datetime.fromisoformat(when).timestamp()
    require(False, f"{log.name} has no line with {words!r}")
    raise AssertionError


def _require_working(folder: Path, target: str) -> None:
    """Create a run and see it end. There is no such project, so it ends FAILED; it ran, and that is what is asked."""
    token = DataDir(folder).secrets().token({"no-such-project": "OWNER"}, user="bench")
    call = runs.credentials(token)
    asked = pb.CreateRunRequest(
        project_id="no-such-project", playbook_id="missing_seo_title", run_type=Run.PREVIEW_GENERATE
    )
    with grpc.insecure_channel(target) as channel:
        stub = RunsServiceStub(channel)
        run = stub.CreateRun(asked, **call).run
        messages: Sequence[pb.WatchRunResponse] = list(
            stub.WatchRun(pb.WatchRunRequest(project_id="no-such-project", run_id=run.id), **call)
        )
    last = messages[-1].run
    require(last.error_code == "PROJECT_NOT_FOUND", f"the run ended {Run.Status.Name(last.status)}: {last.error_code}")


if __name__ == "__main__":
    run_claim(CLAIM, measure)
