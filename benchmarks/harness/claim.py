"""What is claimed, and what was measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

ROUNDS = 5


@dataclass(frozen=True)
class Figure:
    """A ratio that is to reach `must`, and interesting from `beyond` on; without both it only stands beside."""

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
    work: str  # what is done, and against what
    figures: Sequence[Figure]


@dataclass(frozen=True)
class Options:
    """How much to measure."""

    rounds: int = ROUNDS
    quick: bool = False

    def size(self, full: int, quick: int) -> int:
        """Return how many of something to take."""
        return quick if self.quick else full


@dataclass(frozen=True)
class Absolute:
    """What lies behind the ratios, for this machine only: one value a round."""

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
