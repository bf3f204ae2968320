"""P7: how soon many watchers see what happened, and what each of them costs the server."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any

import psutil
from playbooks.runs.v1.run_pb2 import Run, RunMeta

from benchmarks.harness import Absolute, Claim, Figure, Load, Options, Results, checks, require, run_claim
from benchmarks.loads.processes import cpu_seconds
from benchmarks.loads.provider import stack_with_provider
from benchmarks.loads.runs import Client
from devstack.process import poll
from devstack.stack import Stack

RUNS, STREAMS_A_RUN, CONNECTIONS = 200, 10, 20
WARM = 1  # streams a run that are open before memory is looked at
PRODUCTS = 20  # a run: one request each
REQUESTS_AT_ONCE, DELAY = 4, 0.06  # of the executor, and seconds each takes: some 60 a second, each a change of a run
STARTING_DELAY = 5.0  # seconds a request takes at first, so that no draft ends before the last one begins
WINDOW = 3.0  # seconds of a round
AT_ONCE = 8  # calls while everything is set up
PROJECTS, STREAMS_A_PROJECT = 100, 10  # of WatchRuns, beside these at the end

ALL_P99 = "WatchRuns beside them, p99 in ms"
BESIDE_P99 = "p99 beside WatchRuns, in ms"

CLAIM = Claim(
    id="P7",
    title="Watching",
    work=f"{RUNS * STREAMS_A_RUN:,} open WatchRun streams over {RUNS} running drafts, one runs_service. A draft "
    f"asks a provider for {PRODUCTS} products one by one, and each answer is a change that all its streams receive",
    figures=[
        Figure("p99 from commit to receipt, in ms", must=150, beyond=50, better="lower"),
        Figure("server memory a stream, in kB", must=60, beyond=30, better="lower"),
        Figure(ALL_P99, better="lower"),
        Figure(BESIDE_P99, better="lower"),
    ],
)


@dataclass
class Found:
    """What the rounds found."""

    p99: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)  # messages received a second
    memory: list[float] = field(default_factory=list)  # kB a stream
    server: list[float] = field(default_factory=list)  # share of a core
    client: list[float] = field(default_factory=list)
    all_p99: list[float] = field(default_factory=list)  # of the WatchRuns streams
    beside_p99: list[float] = field(default_factory=list)  # of the others, meanwhile
    all_rate: list[float] = field(default_factory=list)


def measure(options: Options) -> Results:
    """Let drafts run, open streams on them, and look at what arrives."""
    count = options.size(RUNS, 100)
    settings = {"EXECUTOR_CONCURRENCY": str(count), "AI_CONCURRENCY": str(REQUESTS_AT_ONCE), "AI_BATCH_SIZE": "1"}
    with stack_with_provider(delay=0.0, **settings) as (stack, provider):
        with Client(stack) as client, ThreadPoolExecutor(AT_ONCE) as threads:
            previews = list(threads.map(lambda _: _preview(client), range(count)))
            provider.behave({"delay_seconds": STARTING_DELAY})
            drafts = list(threads.map(lambda preview: _draft(client, preview), previews))
        provider.behave({"delay_seconds": DELAY})
        spec = {"target": stack.runs_target, "token": stack.token("*", "VIEWER"), "connections": CONNECTIONS}
        with Load("benchmarks.loads.watchers", spec) as watchers:
            found = _rounds(stack, watchers, [[run.project_id, run.id] for run in drafts], options.rounds)
            projects = [run.project_id for run in drafts][:PROJECTS] * STREAMS_A_PROJECT
            with Load("benchmarks.loads.project_watchers", spec) as followers:
                _beside(
                    watchers,
                    followers,
                    projects,
                    streams=count * STREAMS_A_RUN,
                    rounds=options.size(options.rounds, 1),  # all drafts still run
                    found=found,
                )
            provider.behave()
            watchers.send("end")
            ended = watchers.receive()
        expected = count * STREAMS_A_RUN
        require(ended == {"ended": expected, "problems": []}, f"{expected} whole streams were due: {ended}")
        _require_drafted(stack, count)
    return Results(
        ratios={
            CLAIM.figures[0].name: found.p99,
            CLAIM.figures[1].name: found.memory,
            ALL_P99: found.all_p99,
            BESIDE_P99: found.beside_p99,
        },
        absolutes=[
            Absolute("p99 from commit to receipt", "ms", found.p99),
            Absolute("median from commit to receipt", "ms", found.p50),
            Absolute("changes received", "messages/s", found.rate),
            Absolute("runs_service", "share of a core", found.server),
            Absolute("client", "share of a core", found.client),
            Absolute("changes received over WatchRuns", "messages/s", found.all_rate),
        ],
        notes=[
            f"Real runs: {count} drafts take turns at the provider, which makes about one change of a run every "
            f"{DELAY * 1000 / REQUESTS_AT_ONCE:.0f} ms; each goes to {STREAMS_A_RUN} streams. {CONNECTIONS} "
            "connections, one client process.",
            "From `updated_at`, which runs_service takes right before it commits the change, to the moment the client "
            "has the message: the commit itself is inside. One clock, this machine's.",
            f"Memory: resident set of runs_service with all streams open, at the end of each round, less what it was "
            f"with {count * WARM} streams open, divided by the streams that came in between.",
            "Every stream was followed to its end: no gap, nothing twice, SUCCEEDED.",
            f"Beside: after these rounds {PROJECTS * STREAMS_A_PROJECT:,} WatchRuns streams over {PROJECTS} of the "
            "projects, for as many rounds more, from another client process; every run in them gapless.",
        ],
    )


def _rounds(stack: Stack, watchers: Load, watched: list[list[str]], rounds: int) -> Found:
    """Open the streams, the first few to warm up, and look at what arrives in each round."""
    server = psutil.Process(stack.runs[0].pid)
    _open(watchers, watched * WARM, len(watched) * WARM)
    # The slow first requests end: from here on runs change.
    poll(lambda: bool(_ask(watchers, len(watched) * WARM)["ages"]), 2 * STARTING_DELAY, lambda: "no run changes")
    before = server.memory_info().rss
    more = STREAMS_A_RUN - WARM
    _open(watchers, watched * more, len(watched) * STREAMS_A_RUN)
    time.sleep(WINDOW)
    found, last = Found(), _ask(watchers, len(watched) * STREAMS_A_RUN)
    busy, clock = cpu_seconds(server.pid), time.monotonic()
    for _ in range(rounds):
        time.sleep(WINDOW)
        arrived = _ask(watchers, len(watched) * STREAMS_A_RUN)
        spent, elapsed = cpu_seconds(server.pid), time.monotonic() - clock
        ages = arrived["ages"]
        require(len(ages) > 100, f"only {len(ages)} changes in {elapsed:.1f} s")
        found.p99.append(quantiles(ages, n=100)[98])
        found.p50.append(median(ages))
        found.rate.append(len(ages) / elapsed)
        found.memory.append((server.memory_info().rss - before) / 1_000 / (len(watched) * more))
        found.server.append((spent - busy) / elapsed)
        found.client.append((arrived["cpu"] - last["cpu"]) / elapsed)
        busy, clock, last = spent, clock + elapsed, arrived
    return found


def _beside(watchers: Load, followers: Load, projects: list[str], *, streams: int, rounds: int, found: Found) -> None:
    """Open WatchRuns streams beside those of the runs, and look at what arrives in both."""
    followers.send({"watch": projects})
    _arrived(followers, len(projects))
    _ask(watchers, streams)
    for _ in range(rounds):
        clock = time.monotonic()
        time.sleep(WINDOW)
        ages = _arrived(followers, len(projects), "window")
        elapsed = time.monotonic() - clock
        require(len(ages) > 100, f"only {len(ages)} changes in {elapsed:.1f} s")
        found.all_p99.append(quantiles(ages, n=100)[98])
        found.all_rate.append(len(ages) / elapsed)
        found.beside_p99.append(quantiles(_ask(watchers, streams)["ages"], n=100)[98])
    followers.send("end")


def _arrived(followers: Load, expected: int, question: str = "") -> list[float]:
    """Return the ages of what arrived since the last question. Fails unless all streams are open and without fault."""
    if question:
        followers.send(question)
    arrived: dict[str, Any] = followers.receive()
    ages: list[float] = arrived.pop("ages")
    require(arrived == {"open": expected, "problems": []}, f"{expected} WatchRuns streams should be open: {arrived}")
    return ages


def _open(watchers: Load, watched: list[list[str]], expected: int) -> None:
    watchers.send({"watch": watched})
    opened = watchers.receive()
    require(opened == {"open": expected, "problems": []}, f"{expected} streams should be open: {opened}")


def _ask(watchers: Load, expected: int) -> dict[str, Any]:
    """Return what arrived since the last question. Fails unless all streams are open."""
    watchers.send("window")
    arrived: dict[str, Any] = watchers.receive()
    still = {name: arrived[name] for name in ("open", "problems")}
    require(still == {"open": expected, "problems": []}, f"{expected} streams should be open: {still}")
    return arrived


def _preview(client: Client) -> Run:
    project = client.make_shop("watched", products=PRODUCTS)
    return client.finished(client.create(project, meta=RunMeta(sample_size=1)))


def _draft(client: Client, preview: Run) -> Run:
    scope = {"scope_id": preview.scope_id, "rules_hash": preview.rules_hash}
    return client.create(preview.project_id, Run.DRAFT_GENERATE, **scope)


def _require_drafted(stack: Stack, count: int) -> None:
    """Fail unless there is a preview and a draft of each project, all SUCCEEDED, and a suggestion of each product."""
    ended = dict(checks.rows(stack, "SELECT run_type || ' ' || status, count(*) FROM runs.runs GROUP BY 1"))
    expected = {"PREVIEW_GENERATE SUCCEEDED": count, "DRAFT_GENERATE SUCCEEDED": count}
    require(ended == expected, f"{expected} runs were due: {ended}")
    items = checks.scalar(stack, "SELECT count(*) FROM executor.draft_items WHERE final_suggestion <> ''")
    require(items == count * PRODUCTS, f"{count * PRODUCTS} suggestions were due: {items}")


if __name__ == "__main__":
    run_claim(CLAIM, measure)
