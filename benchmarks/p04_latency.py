"""P4: how long one run takes when nothing else is going on, against a task queue that promises less."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from statistics import quantiles

from benchmarks.harness import (
    Absolute,
    Claim,
    Database,
    Figure,
    Options,
    Results,
    alternate,
    checks,
    durable_stack,
    load,
    make_database,
    make_project,
    per_round,
    relieve,
    require,
    run_claim,
)
from benchmarks.harness.rivals import celery, version
from benchmarks.harness.worker import Worker
from benchmarks.loads import floor
from devstack.ports import free_ports
from devstack.stack import Stack

CLAIM = Claim(
    id="P4",
    title="Latency of a run against Celery",
    work="One at a time, CreateRun sent to terminal state received on WatchRun, an APPLY on an empty scope; against "
    "Celery's delay().get() of a task that does nothing, over the same Valkey",
    figures=[
        Figure("p50 ÷ Celery's p50", must=2.0, beyond=1.0, better="lower"),
        Figure("p99 ÷ Celery's p99", must=3.0, beyond=1.0, better="lower"),
        Figure("bare steps, p50 ÷ Celery's p50", better="lower"),
        Figure("bare steps, p99 ÷ Celery's p99", better="lower"),
    ],
)
RULES = "fedcba9876543210"  # where no product is affected no draft is asked for


def empty_scope(project: str) -> str:
    """Return the scope id of a project without affected products."""
    return sha256(f"{project}:missing_seo_title:".encode()).hexdigest()[:16]


def p50_p99(times: list[float]) -> tuple[float, float]:
    """Return both, in milliseconds."""
    percentiles = quantiles(times, n=100)
    return percentiles[49] * 1e3, percentiles[98] * 1e3


@contextmanager
def bare_steps(stack: Stack) -> Iterator[tuple[str, Database]]:
    """Enter the steps that the contract asks of a run and nothing else: their server's address, and what it stores."""
    assert stack.valkey
    database = make_database(stack, "floor")
    env = {floor.BROKER: stack.valkey.url, floor.DATABASE: database.url}
    (port,) = free_ports(1)
    with ExitStack() as running:
        for role, *arguments in (("serve", str(port)), ("work",)):
            log = stack.data_dir.log(f"floor-{role}")
            running.enter_context(
                Worker("benchmarks.loads.floor", role, *arguments, log=log, env=env, ready=lambda text: "ready" in text)
            )
        yield f"127.0.0.1:{port}", database


def measure(options: Options) -> Results:
    """Alternate between a run and a task; both services and Celery's worker are up and idle."""
    count, warmup = options.size(400, 100), options.size(30, 10)
    with ExitStack() as running:
        stack = running.enter_context(durable_stack())
        rival = running.enter_context(celery(stack, worker=True))
        project = make_project(stack, "latency")
        bare_target, bare_database = running.enter_context(bare_steps(stack))
        created = bare_created = 0

        def latency(target: str, number: int) -> tuple[float, float]:
            done = load(
                "benchmarks.loads.latency",
                target=target,
                token=stack.token(project, "OWNER"),
                project=project,
                scope=empty_scope(project),
                rules=RULES,
                keys=f"round-{number}",
                count=count,
                warmup=warmup,
            )
            return p50_p99(done["times"])

        def runs(number: int) -> tuple[float, float]:
            nonlocal created
            found = latency(stack.runs_target, number)
            created += count + warmup
            checks.require_ended(stack, project, created)
            return found

        def bare(number: int) -> tuple[float, float]:
            nonlocal bare_created
            found = latency(bare_target, number)
            bare_created += count + warmup
            ended = bare_database.scalar(floor.ENDED)
            require(ended == bare_created, f"{bare_created} bare runs were to be stored as ended: {ended}")
            return found

        def tasks(_number: int) -> tuple[float, float]:
            return p50_p99(rival.ask("latency", count=count, warmup=warmup)["times"])

        found = alternate({"run": runs, "task": tasks, "bare": bare}, options.rounds, before=lambda: relieve(stack))
    (run_p50, run_p99), (task_p50, task_p99), (bare_p50, bare_p99) = (
        list(map(list, zip(*found[name], strict=True))) for name in ("run", "task", "bare")
    )
    p50, p99, p50_bare, p99_bare = CLAIM.figures
    return Results(
        ratios={
            p50.name: per_round(run_p50, task_p50),
            p99.name: per_round(run_p99, task_p99),
            p50_bare.name: per_round(bare_p50, task_p50),
            p99_bare.name: per_round(bare_p99, task_p99),
        },
        absolutes=[
            Absolute("run, p50", "ms", run_p50),
            Absolute("Celery, p50", "ms", task_p50),
            Absolute("run, p99", "ms", run_p99),
            Absolute("Celery, p99", "ms", task_p99),
            Absolute("bare steps, p50", "ms", bare_p50),
            Absolute("bare steps, p99", "ms", bare_p99),
        ],
        notes=[
            f"{count} a round, one after the other. WatchRun begins when CreateRun has answered.",
            "Celery's worker has a pool of threads, which answers as soon as `solo` and sooner than `prefork`.",
            "Bare steps: four commits, two messages over Kombu and two calls, each in its turn, with nothing in them "
            "(benchmarks/loads/floor.py).",
            "Every step of a run is on PostgreSQL's disk before the next one begins; a Celery task and its result "
            "are in Valkey's memory, and on disk within a second.",
        ],
        versions={"celery": version("celery")},
    )


if __name__ == "__main__":
    run_claim(CLAIM, measure)
