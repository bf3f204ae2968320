"""How big a scenario is: what the issue names with FAULTS=full, a few seconds' worth of it otherwise."""

import os

FULL = os.environ.get("FAULTS") == "full"


def size(full: int, bounded: int) -> int:
    return full if FULL else bounded
