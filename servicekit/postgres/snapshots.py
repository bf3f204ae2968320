"""PostgreSQL's snapshots: which transactions a reader saw.

Numbers of transactions say in which order they began, and they commit in any other. A snapshot says which have ended,
so two of them say exactly what became visible in between.
"""

import itertools
import re
from dataclasses import dataclass
from typing import Self

_TEXT = re.compile(r"([1-9][0-9]{0,18}):([1-9][0-9]{0,18}):((?:[1-9][0-9]{0,18},)*[1-9][0-9]{0,18})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What pg_current_snapshot() returns: all transactions before `xmax` had ended, but for those in `running`."""

    xmin: int  # the oldest that had not ended
    xmax: int
    running: tuple[int, ...] = ()  # ascending

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read PostgreSQL's spelling. Raises ValueError for any other text, also for what no server would write."""
        match = _TEXT.fullmatch(text)
        if match is None:
            raise ValueError("no snapshot")
        running = tuple(int(number) for number in match[3].split(",")) if match[3] else ()
        found = cls(int(match[1]), int(match[2]), running)
        ascending = all(a < b for a, b in itertools.pairwise(running))
        if not ascending or not found.xmin <= found.xmax or (running and not _fits(found)) or str(found) != text:
            raise ValueError("no snapshot")
        return found

    def __str__(self) -> str:
        return f"{self.xmin}:{self.xmax}:{','.join(map(str, self.running))}"

    def sees(self, xid: int) -> bool:
        """Whether that transaction had ended."""
        return xid < self.xmin or (xid < self.xmax and xid not in self.running)

    def cut(self, xid: int) -> "Snapshot":
        """Return the snapshot that sees the same up to transaction `xid`, and nothing newer."""
        running = tuple(number for number in self.running if number <= xid)
        return Snapshot(min(self.xmin, xid + 1), xid + 1, running)

    def is_later_than(self, other: "Snapshot") -> bool:
        """Whether this one sees more than `other` of the same server, and so all that `other` sees."""
        return self._age > other._age

    @property
    def _age(self) -> tuple[int, int, int]:
        return self.xmax, self.xmin, -len(self.running)


def _fits(snapshot: Snapshot) -> bool:
    return snapshot.xmin <= snapshot.running[0] and snapshot.running[-1] < snapshot.xmax
