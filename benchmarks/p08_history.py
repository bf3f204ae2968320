"""P8: whether the product stays as fast as it was on its first day."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any
from uuid import uuid4

from playbooks.runs.v1 import runs_service_pb2 as pb
from playbooks.runs.v1.run_pb2 import Run

from benchmarks.harness import (
    Absolute,
    Claim,
    Figure,
    Options,
    Results,
    checks,
    durable_stack,
    make_project,
    per_round,
    require,
    run_claim,
)
from benchmarks.loads import history
from benchmarks.loads.runs import Client
from devstack.stack import Stack

MANY, FEW = 1_000_000, 1_000
PAGE = 20
DEEP = 1_000  # the page that is read by token where there are many runs; where there are few, the last full one
CALLS = 40  # of a kind, in a round, to each stack
LEAST, LONGEST = 3, 1.5  # calls in any case, and seconds after which a kind has had its round
WARMUP = 3

PAGES = ("ListRuns page 1", "ListRuns page 1,000 by token", *(f"ListRuns by {name}" for name in history.FILTERS))
KINDS = (*PAGES, "GetRun", "CreateRun")

CLAIM = Claim(
    id="P8",
    title="History",
    work=f"Calls on a table of {MANY:,} runs ÷ the same calls on one of {FEW:,}, one at a time",
    figures=[Figure(f"{kind}: time ÷ time", must=1.3, beyond=1.1, better="lower") for kind in KINDS],
)


Calls = Mapping[str, Callable[[], None]]  # by kind


@dataclass
class Side:
    """One stack with a history, and the calls that are made of it."""

    stack: Stack
    project: str
    client: Client
    stored: int
    ids: list[str] = field(default_factory=list)  # of runs that GetRun is still to ask for
    made: int = 0

    def __post_init__(self) -> None:
        self._auth = self.client.auth(self.project)
        self.last = Run()

    def kinds(self, count: int) -> Calls:
        """Return the calls by kind; each checks what it got. GetRun may be called `count` times."""
        self.ids = history.sample(self.stack, self.project, count)
        deep = min(DEEP, self._stored_here() // PAGE)
        return {
            PAGES[0]: partial(self._list, PAGE),
            PAGES[1]: partial(self._list, PAGE, page_token=self._token_of(deep)),
            **{
                f"ListRuns by {name}": partial(self._list, found, **wanted)
                for name, (wanted, found) in history.FILTERS.items()
            },
            "GetRun": self._get,
            "CreateRun": self._create,
        }

    def settle(self, expected: int) -> None:
        """Fail unless all runs, `expected` of them, are there and have ended."""
        total, active = checks.rows(
            self.stack, "SELECT count(*), count(*) FILTER (WHERE status IN ('QUEUED', 'RUNNING')) FROM runs.runs"
        )[0]
        require((total, active) == (expected, 0), f"{expected} runs should have ended: {total} there, {active} active")

    def _list(self, found: int, **wanted: Any) -> None:
        answer = self.client.runs.ListRuns(pb.ListRunsRequest(project_id=self.project, **wanted), **self._auth)
        require(len(answer.runs) == found, f"{len(answer.runs)} runs of {self.stored}, not {found}, for {wanted}")

    def _get(self) -> None:
        run_id = self.ids.pop()
        run = self.client.runs.GetRun(pb.GetRunRequest(project_id=self.project, run_id=run_id), **self._auth).run
        require(run.id == run_id, f"GetRun answered {run.id} for {run_id}")

    def _create(self) -> None:
        self.made += 1
        request = pb.CreateRunRequest(
            project_id=self.project,
            playbook_id=history.TITLE,
            run_type=Run.PREVIEW_GENERATE,
            idempotency_key=uuid4().hex,
        )
        answer = self.client.runs.CreateRun(request, **self._auth)
        require(answer.created, f"{request.idempotency_key} made no run")
        self.last = answer.run

    def await_last(self) -> None:
        """Wait, off the clock, until the run that was created last has ended."""
        self.client.finished(self.last)

    def _token_of(self, page: int) -> str:
        """Walk to a page and return its token. Fails unless it has the rows that SQL finds there."""
        token = ""
        for _ in range(page - 1):
            request = pb.ListRunsRequest(project_id=self.project, page_token=token)
            token = self.client.runs.ListRuns(request, **self._auth).next_page_token
        request = pb.ListRunsRequest(project_id=self.project, page_token=token)
        listed = [run.id for run in self.client.runs.ListRuns(request, **self._auth).runs]
        query = "SELECT id FROM runs.runs WHERE project_id = %s ORDER BY created_at DESC, id DESC LIMIT %s OFFSET %s"
        stored = [str(row[0]) for row in checks.rows(self.stack, query, [self.project, PAGE, (page - 1) * PAGE])]
        require(listed == stored, f"page {page} is not what is stored in its place")
        return token

    def _stored_here(self) -> int:
        query = "SELECT count(*) FROM runs.runs WHERE project_id = %s"
        return int(checks.scalar(self.stack, query, [self.project]))


def measure(options: Options) -> Results:
    """Make two stacks, one with few runs and one with many, and call both in turn."""
    calls = options.size(CALLS, 5)
    with ExitStack() as running:
        many, filled = _side(running, options.size(MANY, 20_000))
        few, _ = _side(running, FEW)
        times = _times([many, few], options.rounds, calls)
        for side in (many, few):
            side.settle(side.stored + side.made)
    ratios = {f"{kind}: time ÷ time": per_round(by_side[0], by_side[1]) for kind, by_side in times.items()}
    return Results(
        ratios=ratios,
        absolutes=[
            Absolute(f"{kind}, {side.stored:,} runs", "ms", values)
            for kind, by_side in times.items()
            for side, values in zip((many, few), by_side, strict=True)
        ],
        notes=[
            f"{many.stored:,} runs with {history.EVENTS} changes each were stored in {filled:.0f} s, VACUUM ANALYZE "
            "included; all have ended; 4 in 10 belong to the project that is asked for, the others to projects of 30.",
            f"Page 1,000 has the runs 19,981 to 20,000; the last full page of the small table, which it is compared "
            f"with, has as many ({PAGE}).",
            f"A rare value, and the scope, find {history.RARE} runs, the oldest of the project; run_type and status "
            "together find none; the others find many.",
            f"Medians of up to {CALLS} calls a round, as the client sees them, in turn to both. A created run ends "
            "before the next call is made.",
        ],
    )


def _side(running: ExitStack, count: int) -> tuple[Side, float]:
    """Start a stack with a history; return it and how long it took to store that."""
    stack = running.enter_context(durable_stack())
    project = make_project(stack, "big")
    filled = history.fill(stack, count, project)
    return Side(stack, project, running.enter_context(Client(stack)), count), filled


def _times(sides: Sequence[Side], rounds: int, calls: int) -> dict[str, list[list[float]]]:
    """Return, by kind and side, the median milliseconds of a call in each round."""
    of_sides = [side.kinds(WARMUP + rounds * calls) for side in sides]
    for kind in KINDS:
        _turns(kind, sides, of_sides, WARMUP)
    times: dict[str, list[list[float]]] = {kind: [[] for _ in sides] for kind in KINDS}
    for _ in range(rounds):
        for kind in KINDS:
            for medians, taken in zip(times[kind], _turns(kind, sides, of_sides, calls), strict=True):
                medians.append(median(taken))
    return times


def _turns(kind: str, sides: Sequence[Side], of_sides: Sequence[Calls], calls: int) -> list[list[float]]:
    """Call each side in turn, the other one first each time; return the milliseconds of each call by side."""
    taken: list[list[float]] = [[] for _ in sides]
    ends = time.perf_counter() + LONGEST
    for number in range(calls):
        if number >= LEAST and time.perf_counter() > ends:
            break
        order = range(len(sides)) if number % 2 == 0 else reversed(range(len(sides)))
        for place in order:
            started = time.perf_counter()
            of_sides[place][kind]()
            taken[place].append((time.perf_counter() - started) * 1_000)
            if kind == "CreateRun":
                sides[place].await_last()
    return taken


if __name__ == "__main__":
    run_claim(CLAIM, measure)
