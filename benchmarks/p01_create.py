"""P1: the rate of CreateRun against the rate of a bare Python gRPC server."""

from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.harness import (
    Absolute,
    Claim,
    Figure,
    Options,
    Results,
    alternate,
    checks,
    durable_stack,
    load,
    per_round,
    relieve,
    require,
    run_claim,
)
from benchmarks.harness.worker import Worker
from devstack.ports import free_ports
from devstack.process import poll
from devstack.stack import Stack

CONCURRENCY = 64
PUBLISH_TIMEOUT = 30.0  # seconds after the last answer; it takes milliseconds
SCOPE, RULES = "0123456789abcdef", "fedcba9876543210"  # runs_service does not check them

CLAIM = Claim(
    id="P1",
    title="CreateRun against a bare gRPC server",
    work=f"CreateRun of an APPLY, authenticated, a new key each, {CONCURRENCY} concurrent calls on one channel, one "
    "runs_service, queue mode: each run is stored and published to the broker, and none executes, for the executor is "
    "stopped. Against the same calls to a bare grpc.aio server",
    figures=[Figure("runs/s ÷ echo calls/s", must=0.45, beyond=0.55)],
)


class Creation:
    """Rounds of CreateRun on a stack whose executor is stopped."""

    def __init__(self, stack: Stack, *, count: int, warmup: int) -> None:
        self._stack = stack
        self._count = count
        self._warmup = warmup
        self.client_cpu: list[float] = []  # seconds of CPU in the client, of each second

    def spec(self, number: int, target: str) -> dict[str, Any]:
        """Return the spec of the client in round `number`."""
        project = f"create-{number}"
        return {
            "target": target,
            "token": self._stack.token(project, "OWNER"),
            "project": project,
            "scope": SCOPE,
            "rules": RULES,
            "keys": f"round-{number}",
            "concurrency": CONCURRENCY,
            "warmup": self._warmup,
            "count": self._count,
        }

    def runs(self, number: int) -> float:
        """Create runs; return how many a second were stored, acknowledged and published."""
        spec = self.spec(number, self._stack.runs_target)
        done = load("benchmarks.loads.create", **spec)
        self.client_cpu.append(done["client_cpu"] / done["seconds"])
        return self._count / max(done["seconds"], self._published(spec["project"]) - done["started"])

    def echoes(self, target: str, number: int, times: int) -> float:
        """Make `times` as many calls of the bare server; return how many a second were answered."""
        spec = self.spec(number, target)
        done = load("benchmarks.loads.create", **{**spec, "count": self._count * times})
        return self._count * times / done["seconds"]

    def _published(self, project: str) -> float:
        """Wait until all runs of the round are published, and return since when. Fails unless the broker has them."""
        waiting = "SELECT count(*) FROM runs.runs WHERE project_id = %s AND dispatched_at IS NULL"
        poll(
            lambda: checks.scalar(self._stack, waiting, [project]) == 0,
            PUBLISH_TIMEOUT,
            lambda: f"runs of {project} are not published {PUBLISH_TIMEOUT} s after they were acknowledged",
        )
        created = checks.run_ids(self._stack, project)
        acknowledged = self._warmup + self._count
        require(len(created) == acknowledged, f"{acknowledged} runs were acknowledged, {len(created)} are stored")
        missing = created - set(checks.queued_run_ids(self._stack))
        require(not missing, f"{len(missing)} runs count as published, and the broker does not have them")
        last = "SELECT extract(epoch FROM max(dispatched_at))::float8 FROM runs.runs WHERE project_id = %s"
        return float(checks.scalar(self._stack, last, [project]))


def echo_server(log: Path) -> tuple[Worker, str]:
    """Return a bare server, not started yet, and its address."""
    (port,) = free_ports(1)
    server = Worker("benchmarks.loads.echo", str(port), log=log, ready=lambda text: "ready" in text)
    return server, f"127.0.0.1:{port}"


def measure(options: Options) -> Results:
    """Alternate between the product and the bare server, both up all the time."""
    with ExitStack() as running:
        stack = running.enter_context(durable_stack())
        stack.executors[0].stop()
        server, target = echo_server(stack.data_dir.log("echo"))
        running.enter_context(server)
        creation = Creation(stack, count=options.size(2_000, 600), warmup=options.size(300, 100))
        rates = alternate(
            {
                "runs/s": creation.runs,
                "echo calls/s": lambda number: creation.echoes(target, number, times=2),
            },
            options.rounds + 2,  # short ones: a second of the machine is like the next one, not like that after ten
            before=lambda: relieve(stack),
        )
    return Results(
        ratios={CLAIM.figures[0].name: per_round(rates["runs/s"], rates["echo calls/s"])},
        absolutes=[
            Absolute("CreateRun, stored and published", "calls/s", rates["runs/s"]),
            Absolute("bare grpc.aio server", "calls/s", rates["echo calls/s"]),
        ],
        notes=[
            "The clock of a round stops at the last answer or when the last run was noted as published, what is later.",
            "After each round the broker's queue was read: it had a job for every run of the round.",
            "Client, server, PostgreSQL and Valkey share the machine; the client took "
            f"{median(creation.client_cpu):.2f} of a core during CreateRun.",
        ],
    )


if __name__ == "__main__":
    run_claim(CLAIM, measure)
