"""P4: how long one run takes on an idle stack, against the bare steps of a run and against other task queues."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
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
from benchmarks.harness.rivals import Rival, celery, dbos, procrastinate, version
from benchmarks.harness.worker import Worker
from benchmarks.loads import floor
from benchmarks.loads.shops import APPLIED, PREVIEWED
from devstack.ports import free_ports
from devstack.stack import Stack

OURS, PREVIEW, APPLY = "run", f"preview of {PREVIEWED} products", f"apply of {APPLIED} products"
BARE = "bare steps"
CELERY, PROCRASTINATE, DBOS = "Celery", "procrastinate", "DBOS"
AGAINST_BARE = f"p50 ÷ {BARE}' p50"

CLAIM = Claim(
    id="P4",
    title="Latency of a run",
    work="One at a time, CreateRun sent to terminal state received on WatchRun. The run is an APPLY on an empty scope: "
    "it checks its scope and writes no product. Against the bare steps of the contract (benchmarks/loads/floor.py), "
    "four commits, two messages and two calls with nothing in them. Beside it: a preview that writes three suggestions "
    "(offline writer), an APPLY that writes ten products, and the round trips of Celery, procrastinate and DBOS with a "
    "task that does nothing",
    figures=[
        Figure(f"{OURS}, {AGAINST_BARE}", must=2.2, beyond=1.5, better="lower"),
        Figure(f"{OURS}, p99 ÷ {BARE}' p99", better="lower"),
        *(Figure(f"{name}, {AGAINST_BARE}", better="lower") for name in (PREVIEW, APPLY, CELERY, PROCRASTINATE, DBOS)),
    ],
)
# Fewer tasks for those that take long: DBOS's worker polls its queue once a second, and procrastinate's, which is
# notified, misses some notifications and polls every 5 s.
SHARES = {CELERY: 1, PROCRASTINATE: 4, DBOS: 40}
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


class Runs:
    """Rounds of runs on a stack, each checked afterwards."""

    def __init__(self, stack: Stack, *, count: int, warmup: int) -> None:
        self._stack = stack
        self.count = count
        self._warmup = warmup
        self._projects = {work: make_project(stack, work) for work in ("nothing", "preview", "apply")}
        self._ended = dict.fromkeys(self._projects, 0)

    def measure(self, work: str, number: int) -> tuple[float, float]:
        """Return p50 and p99 of a round, in milliseconds."""
        project = self._projects[work]
        times = self.times(self._stack.runs_target, project, work, number)
        self._ended[work] += self.count + self._warmup + (work == "apply")  # a preview comes before the applies
        checks.require_ended(self._stack, project, self._ended[work])
        return p50_p99(times)

    def times(self, target: str, project: str, work: str, number: int) -> list[float]:
        """Return the seconds of each run of a round at `target`."""
        done = load(
            "benchmarks.loads.latency",
            target=target,
            executor_target=self._stack.executor_target,
            token=self._stack.token(project, "OWNER"),
            project=project,
            scope=empty_scope(project),
            rules=RULES,
            keys=f"round-{number}",
            count=self.count,
            warmup=self._warmup,
            work=work,
        )
        return list(done["times"])

    def bare(self, target: str, database: Database, number: int) -> tuple[float, float]:
        """Return p50 and p99 of a round of bare steps, in milliseconds."""
        times = self.times(target, self._projects["nothing"], "nothing", number)
        expected = (number + 1) * (self.count + self._warmup)
        ended = database.scalar(floor.ENDED)
        require(ended == expected, f"{expected} bare runs should be stored as ended: {ended}")
        return p50_p99(times)

    def tasks(self, rival: Rival, _number: int) -> tuple[float, float]:
        """Return p50 and p99 of a round of a rival's tasks, in milliseconds."""
        share = SHARES[rival.name]
        count, warmup = self.count // share, max(1, self._warmup // share)
        return p50_p99(rival.ask("latency", count=count, warmup=warmup)["times"])


def measure(options: Options) -> Results:
    """Alternate between runs, bare steps and rivals' tasks; all their processes are up all the time."""
    with ExitStack() as running:
        stack = running.enter_context(durable_stack(executor_env={"AI_PROVIDER": "offline"}))
        rivals = [running.enter_context(rival(stack, worker=True)) for rival in (celery, procrastinate, dbos)]
        target, database = running.enter_context(bare_steps(stack))
        runs = Runs(stack, count=options.size(400, 100), warmup=options.size(30, 10))
        contenders: dict[str, Callable[[int], tuple[float, float]]] = {
            OURS: lambda number: runs.measure("nothing", number),
            BARE: lambda number: runs.bare(target, database, number),
            PREVIEW: lambda number: runs.measure("preview", number),
            APPLY: lambda number: runs.measure("apply", number),
        }
        for rival in rivals:
            contenders[rival.name] = partial(runs.tasks, rival)
        found = alternate(contenders, options.rounds, before=lambda: relieve(stack))
    p50s = {name: [p50 for p50, _ in rounds] for name, rounds in found.items()}
    p99s = {name: [p99 for _, p99 in rounds] for name, rounds in found.items()}
    ratios = {f"{name}, {AGAINST_BARE}": per_round(p50s[name], p50s[BARE]) for name in found if name != BARE}
    ratios[f"{OURS}, p99 ÷ {BARE}' p99"] = per_round(p99s[OURS], p99s[BARE])
    return Results(
        ratios=ratios,
        absolutes=[
            *(Absolute(f"{name}, p50", "ms", values) for name, values in p50s.items()),
            *(Absolute(f"{name}, p99", "ms", values) for name, values in p99s.items() if name != DBOS),
        ],
        notes=[
            f"{runs.count} runs or tasks a round, one after the other; procrastinate "
            f"{runs.count // SHARES[PROCRASTINATE]}, DBOS {runs.count // SHARES[DBOS]}. "
            "WatchRun begins when CreateRun has answered.",
            "Bare steps: no token, check, lease, history, log line, batch or retry.",
            f"Before each preview the shop gets {PREVIEWED} products that no run has seen, before each apply its "
            f"{APPLIED} products lose their titles; neither is timed.",
            "Celery's worker has a pool of threads, which answers as soon as `solo` and sooner than `prefork`. "
            "Procrastinate keeps no results: its client asks for the job's status again as soon as it has an answer. "
            "DBOS's worker looks into the queue once a second, its default; the client polls every 10 ms.",
            "Every step of a run is on PostgreSQL's disk before the next one begins; a Celery task and its result "
            "are in Valkey's memory, and on disk within a second.",
        ],
        versions={name: version(name) for name in ("celery", "procrastinate", "dbos")},
    )


if __name__ == "__main__":
    run_claim(CLAIM, measure)
