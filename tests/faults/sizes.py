"""How big a scenario is: what the issue names with FAULTS=full, a few seconds' worth of it otherwise."""

import os

FULL = os.environ.get("FAULTS") == "full"


def size(full: int, bounded: int) -> int:
    return full if FULL else bounded


def tail(seconds: list[float]) -> float:
    """Return the p99 of some times; at the bounded size the p90, for of so few calls a neighbour's two or three would
    decide the p99."""
    return sorted(seconds)[int(len(seconds) * (0.99 if FULL else 0.9))]


def overbooked() -> float:
    """Return how many runnable processes there are for each processor: at least 1, and not more than 2.

    By this factor times are relaxed on a machine that is busy with other things; on one of its own a stack under the
    loads of these tests takes about 1. More than twice the time is never granted: some faults would fit into it.
    """
    return min(2.0, max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)))
