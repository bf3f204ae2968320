"""P3: how fast one executor drains a queue, until every watcher has seen the end."""

import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from benchmarks.harness import (
    Absolute,
    Claim,
    Figure,
    Load,
    Options,
    Results,
    alternate,
    best_of,
    checks,
    durable_stack,
    load,
    make_project,
    outclassed,
    per_round,
    relieve,
    require,
    run_claim,
)
from benchmarks.harness.rivals import Rival, celery, dbos, procrastinate, version
from benchmarks.harness.worker import Frozen
from benchmarks.loads.shops import APPLIED, PREVIEWED
from benchmarks.p04_latency import RULES, empty_scope
from devstack.process import Process
from devstack.stack import Stack

OURS = "playbook-runs"
PREVIEWS, APPLIES = f"previews of {PREVIEWED} products", f"applies of {APPLIED} products"
CLAIM = Claim(
    id="P3",
    title="Draining a queue against Celery, procrastinate and DBOS",
    work="5,000 queued runs, one executor process, until the last watcher-visible terminal state. Each run is an APPLY "
    "on an empty scope: it checks its scope and writes no product. Against 5,000 tasks that do nothing, one worker "
    "process each, results read. Beside it, of 500 shops: previews that write three suggestions (offline writer), and "
    "APPLYs that write ten products",
    figures=[
        Figure("runs/s ÷ the best rival's tasks/s", must=1.2, beyond=2.0),
        Figure(f"{PREVIEWS}/s ÷ the best rival's tasks/s"),
        Figure(f"{APPLIES}/s ÷ the best rival's tasks/s"),
    ],
)
CONCURRENCY = 64  # of the client that fills the queue, which is not timed


class Drain:
    """Rounds of draining: each fills a queue while the worker is stopped, resumes it, and waits for the client."""

    def __init__(self, stack: Stack, count: int) -> None:
        self._stack = stack
        self._count = count
        self.with_lists: list[float] = []  # our rate when the client also lists every run at the end

    def runs(self, number: int) -> float:
        """Drain runs that do nothing; return how many a second ended, for watchers to see."""
        project = make_project(self._stack, "drain")
        spec = {
            "target": self._stack.runs_target,
            "token": self._stack.token(project, "OWNER"),
            "project": project,
            "scope": empty_scope(project),
            "rules": RULES,
            "keys": f"round-{number}",
            "concurrency": CONCURRENCY,
            "count": self._count,
        }
        seconds, done = self._drained(self._stack.executors[0], "benchmarks.loads.drain", spec, {})
        checks.require_ended(self._stack, project, self._count)
        self.with_lists.append(self._count / (seconds + done["all_read"] - done["ended"]))
        return self._count / seconds

    def previews(self, number: int) -> float:
        """Drain previews, each of another shop; return how many a second ended."""
        return self._work("preview", number)

    def applies(self, number: int) -> float:
        """Drain applies, each of another shop; return how many a second ended."""
        return self._work("apply", number)

    def _work(self, work: str, number: int) -> float:
        """Drain one run for each of some shops, all of them new."""
        shops = [f"{work}-{self._count}-{number}-{shop}" for shop in range(self._count)]
        spec = {
            "target": self._stack.runs_target,
            "executor_target": self._stack.executor_target,
            "token": self._stack.token("*", "OWNER"),
            "shops": shops,
            "work": work,
        }
        load("benchmarks.loads.drain_shops", **spec, prepare=True)
        seconds, _ = self._drained(self._stack.executors[0], "benchmarks.loads.drain_shops", spec, {})
        return self._count / seconds

    def tasks(self, rival: Rival) -> float:
        """Drain a rival's tasks; return how many a second ended and were read."""
        assert rival.worker
        spec = {"work": "drain", "count": self._count}
        return self._count / self._drained(rival.worker, rival.client, spec, rival.env)[0]

    def _drained(
        self, worker: Process, client: str, spec: dict[str, Any], env: Mapping[str, str]
    ) -> tuple[float, dict[str, Any]]:
        """Return the seconds from the worker's resumption to the end that the client saw, and the client's report."""
        frozen = Frozen(worker)
        try:
            with Load(client, spec, env) as process:
                require(process.receive() == "filled", f"{client} did not fill the queue")
                relieve(self._stack)
                started = time.monotonic()
                frozen.thaw()
                done = process.receive()
        finally:
            frozen.thaw()
        require(done["successful"], f"{client}: not all of them succeeded")
        require(done["read"] == self._count, f"{client} read {done['read']} of {self._count} results")
        return done["ended"] - started, done


def measure(options: Options) -> Results:
    """Alternate between the product and its rivals; all workers run all the time, and idle in the others' rounds."""
    with ExitStack() as running:
        stack = running.enter_context(durable_stack(executor_env={"AI_PROVIDER": "offline"}))
        rivals = [running.enter_context(rival(stack, worker=True)) for rival in (celery, procrastinate, dbos)]
        warmup = Drain(stack, 200)
        warmup.runs(-1)
        warmup.previews(-1)
        warmup.applies(-1)
        for rival in rivals:
            warmup.tasks(rival)
        drain = Drain(stack, options.size(5_000, 500))
        work = Drain(stack, options.size(500, 100))
        contenders = {OURS: drain.runs, PREVIEWS: work.previews, APPLIES: work.applies}
        contenders |= {rival.name: lambda _number, rival=rival: drain.tasks(rival) for rival in rivals}
        rates = alternate(
            contenders, options.rounds, sits_out=outclassed(1.5, after=2, never={OURS, PREVIEWS, APPLIES})
        )
    previews, applies = rates.pop(PREVIEWS), rates.pop(APPLIES)
    ratios, absolutes, notes = best_of(rates, OURS, "tasks/s")
    best = [ours / ratio for ours, ratio in zip(rates[OURS], ratios, strict=True)]
    runs_figure, previews_figure, applies_figure = CLAIM.figures
    return Results(
        ratios={
            runs_figure.name: ratios,
            previews_figure.name: per_round(previews, best),
            applies_figure.name: per_round(applies, best),
        },
        absolutes=[
            *absolutes,
            Absolute(f"{OURS}, every run listed at the end", "tasks/s", drain.with_lists),
            Absolute(f"{OURS}, {PREVIEWS}", "runs/s", previews),
            Absolute(f"{OURS}, {APPLIES}", "runs/s", applies),
        ],
        notes=[
            *notes,
            "The queue is filled while the worker process is stopped by SIGSTOP; the clock starts with SIGCONT.",
            "Our clock stops when 50 WatchRun streams, spread over the runs, have ended and ListRuns shows no run that "
            "is QUEUED or RUNNING; then every run is read by ListRuns, and its history by SQL.",
            "Of previews and applies every run has a WatchRun stream, and the clock stops when all have ended.",
            "Celery: a pool of threads, prefetch 128, results by join_native. "
            "procrastinate: 30 coroutines; it keeps no results, its jobs are listed. DBOS: a queue without limits, its "
            "workflows are listed with their outputs.",
        ],
        versions={name: version(name) for name in ("celery", "procrastinate", "dbos")},
    )


if __name__ == "__main__":
    run_claim(CLAIM, measure)
