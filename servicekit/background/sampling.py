"""Sampling: gauges of what lies in the database, measured now and then and never by a scrape."""

import math
from collections.abc import Mapping
from typing import Protocol

from prometheus_client import Gauge

from servicekit.background.tasks import Ticker
from servicekit.errors import ServiceError

INTERVAL = 30.0  # seconds; each sample is a statement, and an idle service makes few


class Measured(Protocol):
    """Something whose sizes are known to the database."""

    async def sizes(self) -> Mapping[str, float]:
        """Measure with one statement, whose cost does not grow with the history. Raises ServiceError."""
        ...


class Sampler(Ticker):
    """Sets `gauges`, by the names of the sizes. While the database is away they are NaN, not what they were."""

    def __init__(self, measured: Measured, gauges: Mapping[str, Gauge], *, interval: float = INTERVAL) -> None:
        super().__init__(interval)
        self._measured = measured
        self._gauges = gauges

    async def tick(self) -> None:
        """Sample once."""
        try:
            sizes = await self._measured.sizes()
        except ServiceError:  # the database says so itself, once and then each minute
            sizes = {}
        for name, gauge in self._gauges.items():
            gauge.set(sizes.get(name, math.nan))
