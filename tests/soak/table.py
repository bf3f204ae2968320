"""What a soak has shown, as the table for docs/reliability.md."""

import os
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime

import grpc

from tests.soak.faults import Injected
from tests.support.load import Load, percentile

QUIET_AFTER = 10.0  # seconds after a fault
WINDOW = 10.0  # seconds over which the slowest throughput is taken


@dataclass
class Memory:
    """What a service occupies, in MB."""

    start: float
    end: float = 0.0
    up_seconds: float = 0.0  # of the process that is there at the end


@dataclass
class Outcome:
    """What was seen. Times are those of time.monotonic()."""

    began: float
    stopped: float  # nothing more was asked for
    settled: float  # everything had ended
    seed: int
    rate: int
    watchers: int
    load: Load
    ends: Counter[tuple[str, str]]  # by type and status
    faults: list[Injected]
    memory: dict[str, Memory]
    ai_requests: int
    ai_texts: int  # that the provider gave
    ai_repeated: int  # of these, for products that had got one before
    ai_used: int  # that projects are charged for

    def problems(self) -> list[str]:
        """Return what is wrong although the audit has passed."""
        found = []
        if failed := {what: count for what, count in self.ends.items() if what[1] != "SUCCEEDED"}:
            found.append(f"not all runs succeeded: {failed}")
        if self.ai_used != self.ai_texts - self.ai_repeated:
            found.append(f"{self.ai_used} suggestions are charged, for {self.ai_texts - self.ai_repeated} products")
        return found

    def quiet(self, moment: float) -> bool:
        """Whether no fault was, and none had been for a while."""
        return not any(fault.began <= moment < fault.ended + QUIET_AFTER for fault in self.faults)


def table(seen: Outcome) -> str:
    """Return it in Markdown."""
    load, seconds = seen.load, seen.stopped - seen.began
    calls = [call.seconds for call in load.calls if call.code is grpc.StatusCode.OK]
    refused = [call for call in load.calls if call.code is not grpc.StatusCode.OK]
    events = [delivery.seconds for delivery in load.deliveries]
    quiet = [delivery.seconds for delivery in load.deliveries if seen.quiet(delivery.received)]
    windows = [
        load.ends_a_second(seen.began + start, seen.began + start + WINDOW)
        for start in range(0, int(seconds - WINDOW) + 1, int(WINDOW))
    ]
    kinds = Counter(fault.name for fault in seen.faults)
    reasons = Counter(call.reason or call.code.name for call in refused)
    ends = [f"{kind} {status} {count}" for (kind, status), count in sorted(seen.ends.items())]
    rows = [
        ("", "p50", "p95", "p99"),
        (":--", "--:", "--:", "--:"),
        ("event latency, all", *quantiles(events)),
        (f"event latency, {QUIET_AFTER:.0f} s and more after a fault", *quantiles(quiet)),
        ("CreateRun, acknowledged at this attempt", *quantiles(calls)),
    ]
    facts = [
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} processors, {seconds:.0f} s, {seen.rate} runs asked for a"
        f" second, {seen.watchers} watchers, 2 runs_service, 2 executors, seed {seen.seed}:",
        "",
        f"- runs: {load.started} asked for, {len(load.acknowledged)} acknowledged, {len(load.ends)} seen ending"
        f" ({', '.join(ends)})",
        f"- throughput: {load.ends_a_second(seen.began, seen.stopped):.1f} ends a second; in the slowest"
        f" {WINDOW:.0f} s {min(windows):.1f}, in the fastest {max(windows):.1f}; the last run ended"
        f" {max(load.ended_at.values()) - seen.stopped:.1f} s after the last was asked for",
        f"- calls: {len(load.calls)}, of which {len(refused)} failed and were made again"
        f" ({', '.join(f'{count} {reason}' for reason, count in sorted(reasons.items()))})",
        f"- events: {len(load.deliveries)} deliveries to watchers that were there before the change",
        f"- AI: {seen.ai_requests} requests, {seen.ai_texts} texts given, of which {seen.ai_repeated} a second time;"
        f" {seen.ai_used} charged",
        "- audit: nothing is wrong",
        "",
    ]
    memory = [
        "| memory | start | end | the last process has run for |",
        "| :-- | --: | --: | --: |",
        *(
            f"| {name} | {m.start:.0f} MB | {m.end:.0f} MB | {m.up_seconds:.0f} s |"
            for name, m in sorted(seen.memory.items())
        ),
    ]
    faults = ["| fault | times |", "| :-- | --: |", *(f"| {name} | {times} |" for name, times in sorted(kinds.items()))]
    return "\n".join([*facts, *map(line, rows), "", *memory, "", *faults])


def line(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def quantiles(seconds: list[float]) -> tuple[str, ...]:
    return tuple(f"{percentile(seconds, quantile) * 1000:.0f} ms" for quantile in (0.5, 0.95, 0.99))
