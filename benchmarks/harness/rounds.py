"""Alternating rounds, so that a disturbance of the machine hits all contenders."""

import sys
from collections.abc import Callable, Container, Mapping, Sequence
from statistics import median
from typing import TypeVar

import psycopg

from benchmarks.harness.claim import Absolute
from devstack.stack import Stack

Measured = TypeVar("Measured")


def alternate(
    contenders: Mapping[str, Callable[[int], Measured]],
    rounds: int,
    *,
    sits_out: Callable[[str, Mapping[str, Sequence[Measured]]], bool] = lambda _name, _so_far: False,
    before: Callable[[], None] = lambda: None,
) -> dict[str, list[Measured]]:
    """Let each contender measure once a round (it gets the round's number), in turn forwards and backwards.

    `before` runs before each. `sits_out` decides, from the rounds so far, whether a contender needs no further one; it
    then sits out all the others.
    """
    measured: dict[str, list[Measured]] = {name: [] for name in contenders}
    out: set[str] = set()
    for number in range(rounds):
        names = list(contenders) if number % 2 == 0 else list(reversed(contenders))
        out |= {name for name in names if sits_out(name, measured)}
        for name in (name for name in names if name not in out):
            before()
            measured[name].append(contenders[name](number))
            print(f"  round {number + 1}/{rounds}: {name}: {_brief(measured[name][-1])}", file=sys.stderr, flush=True)
    return measured


def outclassed(by: float, *, after: int, never: Container[str]) -> Callable[[str, Mapping[str, Sequence[float]]], bool]:
    """Return a `sits_out` for rates: a rival sits out when its best of `after` rounds is `by` times less than another
    rival's median, for it cannot become the best one. Contenders in `never` are no rivals.
    """

    def sits_out(name: str, so_far: Mapping[str, Sequence[float]]) -> bool:
        if name in never or len(so_far[name]) < after:
            return False
        best = max(median(rates) for rival, rates in so_far.items() if rival not in never and rates)
        return max(so_far[name]) * by < best

    return sits_out


def per_round(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Return the ratio of each round."""
    return [a / b for a, b in zip(above, below, strict=True)]


def best_of(
    rates: Mapping[str, Sequence[float]], ours: str, unit: str
) -> tuple[list[float], list[Absolute], list[str]]:
    """Return our ratio to the best rival in each round, the rates of all, and notes on them.

    The best rival is the one with the highest median, in all rounds: it is not picked anew in each.
    """
    rivals = {name: measured for name, measured in rates.items() if name != ours}
    best = max(rivals, key=lambda name: (len(rivals[name]) == len(rates[ours]), median(rivals[name])))
    notes = [f"The best rival is {best}."]
    out = [f"{name} ({len(measured)})" for name, measured in rivals.items() if len(measured) < len(rates[ours])]
    if out:
        notes.append(f"Sat out after as many rounds, too slow to be the best: {', '.join(out)}.")
    return (
        per_round(rates[ours], rivals[best]),
        [Absolute(name, unit, measured) for name, measured in rates.items()],
        notes,
    )


def relieve(stack: Stack) -> None:
    """Run a checkpoint, so that the next contender does not pay for the last one's writes."""
    with psycopg.connect(stack.postgres.url(), autocommit=True) as connection:
        connection.execute("CHECKPOINT")


def _brief(measured: object) -> str:
    return f"{measured:,.2f}" if isinstance(measured, float) else str(measured)
