"""How many processes, cores and connections a rate of runs takes: `python -m benchmarks.capacity`.

It measures what a run costs each process on this machine, in CPU and disk, and then simulates queues: runs arrive at
random (Poisson), and every stage serves them in order with as many servers as it has. A stage gets as few as keep 99 %
of the runs from waiting longer than WAIT and no server busier than BUSY. The result is the table of docs/operations.md.
"""

import argparse
import heapq
import json
import math
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from statistics import mean, quantiles
from typing import Any, NamedTuple

from benchmarks.harness import Load, checks, durable_stack, load, require
from benchmarks.harness.report import machine
from benchmarks.loads.processes import cpu_seconds
from benchmarks.loads.shops import APPLIED, PREVIEWED
from devstack.stack import Stack
from executor_service.settings import LEASE_CONNECTIONS, ExecutorSettings
from runs_service.settings import RunsSettings

RATES = (1, 10, 100, 1_000, 10_000)  # runs a second
WORK = ("preview", "apply")  # half of the runs each
WAIT = 0.1  # seconds that 99 % of the runs wait at most at a stage
BUSY = 0.6  # of a server's time: the rest is for bursts, and for the work of a server that has died
ARRIVALS = 20_000  # simulated runs, at least; at high rates those of 20 s
CORES = 8  # of a machine
AI_SECONDS = 2.0  # that a request to the provider takes: a slot of the executor waits for it, a core does not
AI_CPU = 0.002  # seconds of CPU of a request by the openai client (P5)
DAY = 86_400


class Costs(NamedTuple):
    """What a run takes, on average over WORK."""

    runs: float  # seconds of CPU in runs-service
    executor: float
    postgres: float
    valkey: float
    disk: float  # bytes in PostgreSQL, with indexes
    rows: float  # of history


class Plan(NamedTuple):
    """What a rate takes."""

    rate: int
    runs: int  # processes
    executors: int  # processes
    concurrency: int  # EXECUTOR_CONCURRENCY and AI_CONCURRENCY of each
    postgres: int  # cores
    valkey: int  # cores
    connections: int
    machines: int
    disk: float  # bytes a day
    rows: float  # of history a day


def measure(count: int) -> Costs:
    """Return what a run costs: `count` runs of each kind of work are created and drained on a stack."""
    with ExitStack() as running:
        stack = running.enter_context(durable_stack(executor_env={"AI_PROVIDER": "offline"}))
        drain(stack, "preview", 50, "warm-up")
        found = [drain(stack, work, count, "measured") for work in WORK]
    return Costs(*(mean(values) for values in zip(*found, strict=True)))


def drain(stack: Stack, work: str, count: int, name: str) -> Costs:
    """Return what each of `count` runs of one kind cost, each of another shop."""
    spec = {
        "target": stack.runs_target,
        "executor_target": stack.executor_target,
        "token": stack.token("*", "OWNER"),
        "shops": [f"{name}-{work}-{shop}" for shop in range(count)],
        "work": work,
    }
    load("benchmarks.loads.drain_shops", **spec, prepare=True)
    before = spent(stack)
    with Load("benchmarks.loads.drain_shops", spec) as client:
        require(client.receive() == "filled", f"the runs of {work} were not created")
        require(client.receive()["read"] == count, f"not all runs of {work} ended")
    return Costs(*((after - start) / count for after, start in zip(spent(stack), before, strict=True)))


def spent(stack: Stack) -> Costs:
    """Return what the stack has used so far."""
    assert stack.valkey
    size = "SELECT sum(pg_total_relation_size(oid))::float8 FROM pg_class WHERE relkind = 'r' AND relnamespace IN ({})"
    schemas = "'runs'::regnamespace, 'executor'::regnamespace"
    return Costs(
        cpu_seconds(stack.runs[0].pid),
        cpu_seconds(stack.executors[0].pid),
        cpu_seconds(stack.postgres.pid),
        cpu_seconds(stack.valkey.pid),
        float(checks.scalar(stack, size.format(schemas), [])),
        float(checks.scalar(stack, "SELECT count(*) FROM runs.run_events", [])),
    )


def waits(rate: float, service: Callable[[], float], servers: int, seed: int) -> list[float]:
    """Return how long each run waited for one of `servers`, which take runs in order of arrival."""
    arrivals = random.Random(seed)
    free, now, waited = [0.0] * servers, 0.0, []
    for _ in range(max(ARRIVALS, int(rate * 20))):
        now += arrivals.expovariate(rate)
        start = max(now, heapq.heappop(free))
        waited.append(start - now)
        heapq.heappush(free, start + service())
    return waited


def servers(rate: float, seconds: float, service: Callable[[], float]) -> int:
    """Return the fewest servers with which WAIT and BUSY hold, where a run takes `seconds` of a server on average."""
    count = max(1, math.ceil(rate * seconds / BUSY))
    while quantiles(waits(rate, service, count, seed=1), n=100)[98] > WAIT:
        count += max(1, count // 20)
    return count


def plan(rate: int, costs: Costs) -> Plan:
    """Return what `rate` runs a second take."""
    runs, executor = RunsSettings.model_fields, ExecutorSettings.model_fields
    asks = random.Random(2)
    cpu = costs.executor + AI_CPU / len(WORK)
    # A preview holds its slot for an AI request, an apply for little more than its own work.
    slots = servers(rate, cpu + AI_SECONDS / len(WORK), lambda: cpu + AI_SECONDS * (asks.random() < 1 / len(WORK)))
    runs_processes = servers(rate, costs.runs, lambda: costs.runs)
    executors = servers(rate, cpu, lambda: cpu)
    postgres = servers(rate, costs.postgres, lambda: costs.postgres)
    valkey = servers(rate, costs.valkey, lambda: costs.valkey)
    work = int(executor["executor_database_pool_size"].default)
    connections = runs_processes * (int(runs["runs_database_pool_size"].default) + 1) + executors * (
        work + work // 2 + LEASE_CONNECTIONS
    )
    return Plan(
        rate=rate,
        runs=runs_processes,
        executors=executors,
        concurrency=max(int(executor["executor_concurrency"].default), math.ceil(slots / executors)),
        postgres=postgres,
        valkey=valkey,
        connections=connections,
        machines=math.ceil((rate * (costs.runs + cpu) / BUSY) / CORES) + math.ceil((postgres + valkey) / CORES),
        disk=rate * DAY * costs.disk,
        rows=rate * DAY * costs.rows,
    )


def table(plans: list[Plan]) -> Iterator[str]:
    """Yield the lines of the table."""
    columns = (
        "runs a second",
        "runs-service",
        "executor-service",
        "`EXECUTOR_CONCURRENCY`",
        "PostgreSQL, cores",
        "Valkey, cores",
        "connections",
    )
    columns += ("machines of 8 cores", "history rows a day", "disk a day")
    yield f"| {' | '.join(columns)} |"
    yield f"|{'---|' * len(columns)}"
    for one in plans:
        cells = (
            f"{one.rate:,}",
            str(one.runs),
            str(one.executors),
            str(one.concurrency),
            str(one.postgres),
            str(one.valkey),
            f"{one.connections:,}",
            str(one.machines),
            f"{rounded(one.rows / 1e6)} million",
            f"{rounded(one.disk / 1e9)} GB",
        )
        yield f"| {' | '.join(cells)} |"


def rounded(value: float) -> str:
    """Return a number with two significant digits."""
    return f"{float(f'{value:.2g}'):,g}"


def main() -> None:
    """Measure, or read --costs; print the costs, and the table for each of RATES."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=500, help="runs of each kind that are measured (500)")
    parser.add_argument("--costs", metavar="JSON", help="costs that an earlier run printed, instead of measuring")
    chosen = parser.parse_args()
    costs = Costs(**json.loads(chosen.costs)) if chosen.costs else measure(chosen.runs)
    facts: Mapping[str, Any] = costs._asdict()
    print(json.dumps({name: round(value, 7) for name, value in facts.items()}), file=sys.stderr)
    print(
        f"previews of {PREVIEWED} products and applies of {APPLIED}, half each; {machine()['cpu']}\n", file=sys.stderr
    )
    print("\n".join(table([plan(rate, costs) for rate in RATES])))


if __name__ == "__main__":
    main()
