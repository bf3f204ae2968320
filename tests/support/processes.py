"""Waiting for the end of processes."""

import time
from collections.abc import Callable, Sequence

import psutil

DEADLINE = 30.0  # seconds


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Return once `condition` holds; fail after the deadline."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE:.0f} s: {what}"
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE  # an init that does not reap is not our matter
    except psutil.NoSuchProcess:
        return True


def wait_until_gone(pids: Sequence[int]) -> None:
    """Return once none of the processes runs; fail after the deadline."""
    wait_until(lambda: all(map(is_gone, pids)), f"the end of {pids}")
