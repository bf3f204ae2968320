"""A bound on how often something may happen a second, for each key."""

from collections.abc import Callable


class Rates:
    """Lets each key through `per_second` times a second on average, and `burst` seconds' worth of that at once.

    It keeps for each key when its next permit would be due at an even pace (GCRA). `now` is a clock in seconds
    that never goes back.
    """

    def __init__(self, *, per_second: float, burst: float, now: Callable[[], float]) -> None:
        self._interval = 1 / per_second
        self._slack = max(0.0, burst - self._interval)  # how long before it is due a permit may be taken
        self._now = now
        self._due: dict[str, float] = {}  # by key, the one that was used longest ago first

    def take(self, key: str) -> bool:
        """Take one permit of `key`; False, and nothing taken, when it has none left."""
        now = self._now()
        due = max(now, self._due.get(key, now))
        if due - now > self._slack:
            return False
        self._due.pop(key, None)  # so that it goes to the end
        self._due[key] = due + self._interval
        self._forget_idle(now)
        return True

    def __len__(self) -> int:
        return len(self._due)

    def _forget_idle(self, now: float) -> None:
        """Forget keys that have all their permits again. Each permit adds one key at most, and this looks at two."""
        for _ in range(2):
            oldest = next(iter(self._due))
            if self._due[oldest] > now:
                return
            del self._due[oldest]
