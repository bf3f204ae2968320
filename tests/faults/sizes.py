"""How big a scenario is: what the issue names with FAULTS=full, a few seconds' worth of it otherwise."""

import os

FULL = os.environ.get("FAULTS") == "full"


def size(full: int, bounded: int) -> int:
    return full if FULL else bounded


def overbooked() -> float:
    """Return how many runnable processes there are for each processor: at least 1, and not more than 2.

    By this factor times are relaxed on a machine that is busy with other things; on one of its own a stack under the
    loads of these tests takes about 1. More than twice the time is never granted: some faults would fit into it.
    """
    return min(2.0, max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)))
