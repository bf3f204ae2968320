"""Seconds of the processor that code takes: what other processes do meanwhile does not count."""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

ATTEMPTS = 3  # a core that others use too does the same work more slowly, but not each time


@contextmanager
def without_collections() -> Iterator[None]:
    """Collect no garbage within the block.

    That of a whole test session is not ours; services keep what they are made of out of collections.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def least_seconds(do: Callable[[], object]) -> float:
    """Return the seconds of the processor that `do` takes on this thread: the least of several attempts."""
    seconds = []
    with without_collections():
        for _ in range(ATTEMPTS):
            began = time.thread_time()
            do()
            seconds.append(time.thread_time() - began)
    return min(seconds)
