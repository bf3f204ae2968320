"""Claims and their results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

ROUNDS = 5


@dataclass(frozen=True)
class Figure:
    """A ratio with the limit it must reach, and one beyond that; without limits it is shown for comparison only."""

    name: str
    must: float | None = None
    beyond: float | None = None
    better: Literal["higher", "lower"] = "higher"

    def verdict(self, value: float) -> str:
        """Return "beyond", "reached" or "missed"; "" for a figure that claims nothing."""
        for limit, word in ((self.beyond, "beyond"), (self.must, "reached")):
            if limit is not None and (value >= limit if self.better == "higher" else value <= limit):
                return word
        return "" if self.must is None else "missed"


@dataclass(frozen=True)
class Claim:
    """One line of the table of claims."""

    id: str  # P1
    title: str
    work: str  # what the runs do, and what they are compared with
    figures: Sequence[Figure]


@dataclass(frozen=True)
class Options:
    """The size of a measurement."""

    rounds: int = ROUNDS
    quick: bool = False

    def size(self, full: int, quick: int) -> int:
        """Return the size to take: `full`, or `quick` in a quick measurement."""
        return quick if self.quick else full


@dataclass(frozen=True)
class Absolute:
    """Absolute values behind the ratios, true for this machine only: one a round."""

    name: str
    unit: str
    values: Sequence[float]


@dataclass(frozen=True)
class Results:
    """What was measured: for each figure, by name, its ratio in each round."""

    ratios: Mapping[str, Sequence[float]]
    absolutes: Sequence[Absolute] = ()
    notes: Sequence[str] = ()  # how it was measured, where a reader may ask
    versions: Mapping[str, str] = field(default_factory=dict)  # of what else took part

    def value(self, figure: Figure) -> float:
        """Return the figure: the median of its rounds."""
        return median(self.ratios[figure.name])
