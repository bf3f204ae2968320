"""Keeping the processes of a stack running: one that dies is started again, one that keeps dying ends the stack."""

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from typing import NoReturn

from devstack.errors import StackError
from devstack.process import Process

CHECK_INTERVAL = 0.2  # seconds
PERIOD = 60.0  # seconds
DEATHS = 5  # within the period, after which a process is not started again
# Seconds to wait before the second start within the period and each one after; what a dead PostgreSQL leaves behind
# ends by itself meanwhile.
DELAYS = (0.0, 0.5, 1.0, 2.0)


class Supervisor:
    """Starts the `processes` again that die, each time with one line to `report` that says which and why.

    Runs in the thread that started them: see devstack.process.spawn.
    """

    def __init__(
        self, processes: Iterable[Process], report: Callable[[str], None], *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._processes = list(processes)
        self._report = report
        self._now = now
        self._deaths: dict[Process, deque[float]] = defaultdict(lambda: deque(maxlen=DEATHS))
        self._starts_at: dict[Process, float] = {}  # of those that are dead

    def run(self) -> NoReturn:
        """Supervise until a process has died DEATHS times within PERIOD. Raises StackError with the end of its log."""
        while True:
            self.check()
            time.sleep(CHECK_INTERVAL)

    def check(self) -> None:
        """Look at each process once, and start those again whose time has come. Raises StackError as `run` does."""
        now = self._now()
        for process in self._processes:
            if process.died and process not in self._starts_at:
                self._starts_at[process] = now + self._delay_after_death(process, now)
            if self._starts_at.get(process, now + 1) <= now:
                del self._starts_at[process]
                process.start()

    def _delay_after_death(self, process: Process, now: float) -> float:
        deaths = self._deaths[process]
        deaths.append(now)
        within_period = sum(now - death <= PERIOD for death in deaths)
        if within_period == DEATHS:
            raise StackError(
                f"{process.name} died {DEATHS} times within {PERIOD:.0f} s; the last time it {process.end}; "
                f"{process.log_end}"
            )
        self._report(f"{process.name} {process.end}{_last_words(process)}; it is started again")
        return DELAYS[within_period - 1]


def _last_words(process: Process) -> str:
    """Return the last line of the log of a process that ended by itself: it says why. Nothing for a killed one."""
    return "" if process.was_killed else f" ({process.last_log_line})"
