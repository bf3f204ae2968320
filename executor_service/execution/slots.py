"""Room for executions in this process."""

import contextlib
from collections.abc import Iterator

from executor_service.execution.leases import Leases

# Beside so many slots there is one more, for projects that have no run at work: others' runs may last for hours.
SLOTS_TO_A_SPARE_ONE = 16


class Slots:
    """Counts the slots of this process: each execution under way takes one, each claim under way reserves some.

    There are `count` for all, and some to spare for projects that have no run at work.
    `backlog`: there may be more to claim than there is room for, so jobs that come in must not overtake it.
    """

    def __init__(self, leases: Leases, *, count: int) -> None:
        self.backlog = True
        self._leases = leases
        self._spare = count // SLOTS_TO_A_SPARE_ONE
        self._count = count + self._spare
        self._reserved = 0
        self._claims_in_doubt = True

    @property
    def free(self) -> int:
        """How many more executions may be claimed now."""
        return self._count - len(self._leases) - self._reserved

    @property
    def shared(self) -> int:
        """How many of these may be of projects that have runs at work already."""
        return max(0, self.free - self._spare)

    @contextlib.contextmanager
    def reserve(self, count: int) -> Iterator[None]:
        """Keep `count` slots for a claim within the block. When the block raises, the claim is in doubt."""
        self._reserved += count
        try:
            yield
        except BaseException:
            self.doubt_claims()
            raise
        finally:
            self._reserved -= count

    @contextlib.contextmanager
    def reserve_for_new(self, count: int) -> Iterator[bool]:
        """Reserve slots for `count` jobs that come in; enter False, and reserve none, when they would overtake others
        or find no room."""
        if self.backlog or self.shared < count:
            yield False
            return
        with self.reserve(count):
            yield True

    def doubt_claims(self) -> None:
        """Note that a claim may have been committed although its answer never came."""
        self._claims_in_doubt = True

    def take_claims_in_doubt(self) -> bool:
        """Whether there are claims in doubt, and no others under way. The caller hands them back.

        Until the next claim new jobs are not claimed as they come in: they would be handed back as well."""
        if not self._claims_in_doubt or self._reserved:
            return False
        self._claims_in_doubt = False
        self.backlog = True
        return True
