"""P9: whether one busy project makes the others wait."""

import random
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import ceil
from statistics import median

from playbooks.runs.v1.run_pb2 import Run, RunMeta

from benchmarks.harness import (
    Absolute,
    Claim,
    Figure,
    Options,
    Results,
    checks,
    require,
    run_claim,
)
from benchmarks.loads.provider import Provider, stack_with_provider
from benchmarks.loads.runs import Client
from devstack.process import poll
from devstack.stack import Stack

QUEUED, SMALL = 2_000, 20
CONCURRENCY = 4
DELAY = 0.2  # seconds the provider takes: what makes a run last
MARGIN = 0.1  # seconds
DRAIN_TIMEOUT = 120.0  # seconds
ARRIVAL_TIMEOUT = 30.0  # seconds
SAMPLE = RunMeta(sample_size=1)

ONE_BY_ONE, AT_ONCE = (
    "slowest start of 20 ÷ (2 runs' lengths + 100 ms)",
    "20 at once: last start ÷ (5 runs' lengths)",
)

CLAIM = Claim(
    id="P9",
    title="Fairness",
    work=f"One project has {QUEUED:,} runs queued and {CONCURRENCY} running, each a preview of one product that "
    f"waits {DELAY} s for its provider; then {SMALL} other projects start one each",
    # 1 run's length + 50 ms is half of 2 runs' lengths + 100 ms.
    figures=[
        Figure(ONE_BY_ONE, must=1.0, beyond=0.5, better="lower"),
        Figure(AT_ONCE, better="lower"),
    ],
)


@dataclass(frozen=True)
class Round:
    """One round, in seconds."""

    length: float  # of one run of the busy project
    waits: list[float]  # of each small one, alone: from the call to its start
    waits_at_once: list[float]  # of each, all together


class Shops:
    """The busy project and the small ones, on a stack whose runs last as long as the provider does."""

    def __init__(self, stack: Stack, client: Client, provider: Provider, *, queued: int) -> None:
        self._stack = stack
        self._client = client
        self._queued = queued
        self._random = random.Random(9)  # the same moments in every measurement
        # Blank texts are not kept, so every run asks anew.
        self._slow = {"answer": "blank", "delay_seconds": DELAY}
        self._provider = provider
        provider.behave(self._slow)
        self._busy = client.make_shop("busy", products=1)
        self._small = [client.make_shop("small", products=1) for _ in range(SMALL)]
        self.created = 0

    def round(self) -> Round:
        """Fill the busy project's queue up; let each small one start a run, alone, then all at once."""
        self._fill_up()
        begun = time.time()
        waits = []
        for shop in self._small:
            time.sleep(self._random.uniform(0, DELAY))  # at any moment of the runs that are under way
            waits.append(self._wait(shop))
        length = self._length(begun)
        with ThreadPoolExecutor(SMALL) as threads:
            at_once = list(threads.map(self._wait, self._small))
        require(self._waiting() > 0, "the busy project's queue ran empty")
        return Round(length, waits, at_once)

    def drain(self, rounds: int) -> None:
        """Let everything end, fast. Fails unless each project's runs are all there and SUCCEEDED."""
        self._provider.behave({**self._slow, "delay_seconds": 0.0})
        active = "SELECT count(*) FROM runs.runs WHERE status IN ('QUEUED', 'RUNNING')"
        poll(lambda: checks.scalar(self._stack, active) == 0, DRAIN_TIMEOUT, lambda: "the queue does not get empty")
        checks.require_ended(self._stack, self._busy, self.created)
        for shop in self._small:
            checks.require_ended(self._stack, shop, 2 * rounds)
        asked = self._provider.stats()
        total = self.created + 2 * rounds * SMALL
        require(asked["requests"] == total, f"{total} runs made {asked['requests']} requests")

    def _wait(self, shop: str) -> float:
        """Start a run and see it end; return the seconds from the call until the executor started it."""
        called = time.time()
        run = self._client.finished(self._client.create(shop, meta=SAMPLE))
        return run.started_at.ToNanoseconds() / 1e9 - called

    def _waiting(self) -> int:
        query = "SELECT count(*) FROM executor.executions WHERE project_id = %s AND status = 'QUEUED'"
        return int(checks.scalar(self._stack, query, [self._busy]))

    def _fill_up(self) -> None:
        """Create runs of the busy project until enough are queued, and wait until the executor has them."""
        missing = self._queued - self._waiting()
        self._client.create_many(self._busy, missing, Run.PREVIEW_GENERATE, meta=SAMPLE)
        self.created += missing
        arrived = "SELECT count(*) FROM executor.executions WHERE project_id = %s"
        poll(
            lambda: checks.scalar(self._stack, arrived, [self._busy]) == self.created,
            ARRIVAL_TIMEOUT,
            lambda: f"not all of {self.created} runs have arrived at the executor",
        )

    def _length(self, since: float) -> float:
        """Return the median length of the busy project's runs that started after `since`."""
        lengths = checks.rows(
            self._stack,
            "SELECT extract(epoch FROM finished_at - started_at)::float8 FROM executor.executions "
            "WHERE project_id = %s AND started_at > to_timestamp(%s) AND finished_at IS NOT NULL",
            [self._busy, since],
        )
        require(len(lengths) >= 2 * CONCURRENCY, f"only {len(lengths)} runs of the busy project ended")
        return float(median(length for (length,) in lengths))


def measure(options: Options) -> Results:
    """Start a stack with a slow provider and do the rounds."""
    with (
        stack_with_provider(delay=DELAY, EXECUTOR_CONCURRENCY=str(CONCURRENCY)) as (stack, provider),
        Client(stack) as client,
    ):
        shops = Shops(stack, client, provider, queued=options.size(QUEUED, 200))
        rounds = [shops.round() for _ in range(options.rounds)]
        shops.drain(options.rounds)
    return Results(
        ratios={
            ONE_BY_ONE: [max(found.waits) / (2 * found.length + MARGIN) for found in rounds],
            AT_ONCE: [max(found.waits_at_once) / (ceil(SMALL / CONCURRENCY) * found.length) for found in rounds],
        },
        absolutes=[
            Absolute("slowest start of 20, one by one", "s", [max(found.waits) for found in rounds]),
            Absolute("median start of 20, one by one", "s", [median(found.waits) for found in rounds]),
            Absolute("last start of 20 at once", "s", [max(found.waits_at_once) for found in rounds]),
            Absolute("length of one run", "s", [found.length for found in rounds]),
        ],
        notes=[
            f"Runs are previews of one product; the provider takes {DELAY * 1000:.0f} ms. The length of one run is the "
            "median of the busy project's, started to finished, in the same round.",
            f"Each round begins with {QUEUED:,} runs of the busy project in the executor's queue. The small projects "
            "come one after the other, each at a random moment after the one before has ended.",
            "The wait is from CreateRun sent to started_at, both by the clock of this machine.",
            f"Beside it: {SMALL} projects in the same moment; {CONCURRENCY} slots serve them in 5 turns at best; "
            "the busy one has its turns among them, which leaves them three places.",
        ],
    )


if __name__ == "__main__":
    run_claim(CLAIM, measure)
