"""P2: what a run costs its creator, against what a user would take instead."""

from contextlib import ExitStack

from benchmarks.harness import (
    Claim,
    Figure,
    Options,
    Results,
    alternate,
    best_of,
    durable_stack,
    outclassed,
    relieve,
    require,
    run_claim,
)
from benchmarks.harness.rivals import Rival, celery, dbos, procrastinate, version
from benchmarks.p01_create import CONCURRENCY, Creation

OURS = "playbook-runs"
CLAIM = Claim(
    id="P2",
    title="CreateRun against Celery, procrastinate and DBOS",
    work="CreateRun of an APPLY as in P1, stored and published, and not executed. Against Celery's delay, "
    "procrastinate's defer_async and DBOS's enqueue of a task that does nothing, one client process, workers stopped",
    figures=[Figure("runs/s ÷ the best rival's tasks/s", must=1.2, beyond=2.0)],
)


class Enqueueing:
    """Rounds of a rival's client. After each, its store must have every task."""

    def __init__(self, rival: Rival, count: int, warmup: int) -> None:
        self._rival = rival
        self._count = count
        self._warmup = warmup
        self._expected = 0

    def tasks(self, _number: int) -> float:
        """Enqueue tasks; return how many a second."""
        done = self._rival.ask("enqueue", count=self._count, warmup=self._warmup, concurrency=CONCURRENCY)
        self._expected += self._count + self._warmup
        stored = self._rival.stored()
        require(stored == self._expected, f"{self._rival.name} stored {stored} tasks of {self._expected}")
        return self._count / done["seconds"]


def measure(options: Options) -> Results:
    """Alternate between the product and its rivals; the executor and all workers are stopped."""
    count, warmup = options.size(3_000, 500), options.size(300, 100)
    with ExitStack() as running:
        stack = running.enter_context(durable_stack())
        stack.executors[0].stop()
        rivals = [running.enter_context(rival(stack, worker=False)) for rival in (celery, procrastinate, dbos)]
        contenders = {OURS: Creation(stack, count=count, warmup=warmup).runs}
        contenders |= {rival.name: Enqueueing(rival, count, warmup).tasks for rival in rivals}
        rates = alternate(
            contenders,
            options.rounds,
            before=lambda: relieve(stack),
            sits_out=outclassed(2.0, after=2, never={OURS}),
        )
    ratios, absolutes, notes = best_of(rates, OURS, "tasks/s")
    return Results(
        ratios={CLAIM.figures[0].name: ratios},
        absolutes=absolutes,
        notes=[
            *notes,
            f"Celery: delay, one after the other, results kept. procrastinate: {CONCURRENCY} defer_async at a time. "
            f"DBOS: DBOSClient.enqueue in 32 threads.",
            "After each round the stores were counted: they had every task. Celery's are in Valkey, on disk within a "
            "second; all others are on disk when the call returns.",
        ],
        versions={name: version(name) for name in ("celery", "procrastinate", "dbos")},
    )


if __name__ == "__main__":
    run_claim(CLAIM, measure)
