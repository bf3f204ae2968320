"""Why something that a service depends on cannot be used, for the log and for health checks: what lasts is logged once
a minute, not a thousand times."""

import logging
import threading
import time
from collections.abc import Callable

from servicekit.telemetry.printable import printable

REPEAT_AFTER = 60.0  # seconds
QUIET = 5.0  # seconds in which the same reason is not logged again, however many outages there are
REASON_LIMIT = 500  # characters
REMEMBERED = 1_000  # different lines a minute


def first_line(error: BaseException, *secrets: str) -> str:
    """Return the driver's own words, in one line and without `secrets`."""
    words = str(error).strip() or type(error).__name__
    line = " ".join(words.splitlines()[0].split())
    for secret in secrets:
        if secret:
            line = line.replace(secret, "***")
    return printable(line[:REASON_LIMIT])


class Reminder:
    """Says at which level to log what may happen again and again: once a minute at `level`, else at DEBUG.

    Any thread may call.
    """

    def __init__(self, *, level: int = logging.WARNING, clock: Callable[[], float] = time.monotonic) -> None:
        self._level = level
        self._clock = clock
        self._lock = threading.Lock()
        self._logged_at: dict[str, float] = {}

    def level_for(self, key: object) -> int:
        """Return the level; what has the same `key`, by its words, is the same."""
        words, now = str(key), self._clock()
        with self._lock:
            if now - self._logged_at.get(words, -REPEAT_AFTER) < REPEAT_AFTER:
                return logging.DEBUG
            if len(self._logged_at) >= REMEMBERED:
                self._logged_at = {one: at for one, at in self._logged_at.items() if now - at < REPEAT_AFTER}
            if len(self._logged_at) >= REMEMBERED:  # a key that is never the same twice
                return logging.DEBUG
            self._logged_at[words] = now
            return self._level


class Outage:
    """Logs why `what` is so: once, again each minute while that lasts, and when it is over.

    A reason that is new within the same outage is logged at once too. Any thread may call.
    """

    def __init__(self, what: str, logger: logging.Logger, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._what = what
        self._logger = logger
        self._clock = clock
        self._lock = threading.Lock()
        self._began_at = 0.0
        self._logged_at: dict[str, float] = {}  # by reason
        self._is_logged = False  # this outage
        self.reason = ""  # "": there is no outage
        self.public_reason = ""  # the part of it that callers may read

    def failed(self, reason: str, *, public_reason: str = "") -> None:
        """Note that it failed, and why; callers may read `public_reason`."""
        with self._lock:
            now = self._clock()
            if not self.reason:
                self._began_at = now
                self._is_logged = False
            self.reason, self.public_reason = reason, public_reason
            pause = REPEAT_AFTER if self._is_logged else QUIET
            if now - self._logged_at.get(reason, -REPEAT_AFTER) < pause:
                return
            self._logged_at = {one: at for one, at in self._logged_at.items() if now - at < REPEAT_AFTER}
            self._logged_at[reason] = now
            self._is_logged = True
            lasting = f" for {now - self._began_at:.0f} s" if now - self._began_at >= 1 else ""
        self._logger.error("%s%s: %s", self._what, lasting, reason)

    def ended(self) -> None:
        """Note that it is over, if it was there."""
        if not self.reason:
            return
        with self._lock:
            if not self.reason:
                return
            self.reason = self.public_reason = ""
            seconds = self._clock() - self._began_at
            is_logged = self._is_logged
        if is_logged:
            self._logger.info("%s: over after %.1f s", self._what, seconds)
