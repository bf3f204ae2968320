"""Why something that a service depends on cannot be used, for the log and for health checks."""

import logging
import threading
import time
from collections.abc import Callable

from servicekit.telemetry.printable import printable

REPEAT_AFTER = 60.0  # seconds
REASON_LIMIT = 500  # characters


def first_line(error: BaseException, *secrets: str) -> str:
    """Return the driver's own words, in one line and without `secrets`."""
    words = str(error).strip() or type(error).__name__
    line = " ".join(words.splitlines()[0].split())
    for secret in secrets:
        if secret:
            line = line.replace(secret, "***")
    return printable(line[:REASON_LIMIT])


class Outage:
    """Logs why `what` cannot be used: once, again each minute while that lasts, and when it is over.

    A reason that is new within the same outage is logged at once too. Any thread may call.
    """

    def __init__(self, what: str, logger: logging.Logger, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._what = what
        self._logger = logger
        self._clock = clock
        self._lock = threading.Lock()
        self._began_at = 0.0
        self._logged_at: dict[str, float] = {}
        self.reason = ""  # "": it can be used

    def failed(self, reason: str) -> None:
        """Note that it failed, and why."""
        with self._lock:
            now = self._clock()
            if not self.reason:
                self._began_at = now
            self.reason = reason
            if now - self._logged_at.get(reason, -REPEAT_AFTER) < REPEAT_AFTER:
                return
            self._logged_at[reason] = now
            lasting = f" for {now - self._began_at:.0f} s" if now > self._began_at else ""
        self._logger.error("%s%s: %s", self._what, lasting, reason)

    def ended(self) -> None:
        """Note that it can be used."""
        if not self.reason:
            return
        with self._lock:
            if not self.reason:
                return
            self.reason = ""
            self._logged_at.clear()
            seconds = self._clock() - self._began_at
        self._logger.info("%s: over after %.1f s", self._what, seconds)
