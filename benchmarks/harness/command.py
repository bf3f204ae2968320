"""Running claims from the command line."""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NoReturn

import grpc

from benchmarks.harness import plot, report
from benchmarks.harness.checks import BenchmarkError
from benchmarks.harness.claim import ROUNDS, Claim, Options, Results
from devstack.errors import StackError

DOCS = report.ROOT / "docs" / "performance"
Measure = Callable[[Options], Results]


def arguments(description: str) -> argparse.ArgumentParser:
    """Return a parser of what every benchmark takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"alternating rounds ({ROUNDS})")
    parser.add_argument("--quick", action="store_true", help="smaller sizes: to see that it runs, not for figures")
    parser.add_argument("--output", type=Path, help="where to write JSON and PNG files")
    return parser


def run_claim(claim: Claim, measure: Measure) -> NoReturn:
    """Measure one claim, print it, write it to --output, and exit with 1 unless it was reached."""
    chosen = arguments(f"{claim.id}: {claim.title}. {claim.work}").parse_args()
    try:
        found = measured(claim, measure, Options(rounds=chosen.rounds, quick=chosen.quick))
    except BenchmarkError as error:
        sys.exit(f"{claim.id} is void: {error}")
    if chosen.output:
        write(found, chosen.output)
    print(table([found]))
    sys.exit(any(figure["verdict"] == "missed" for figure in found["figures"]))


def measured(claim: Claim, measure: Measure, options: Options) -> dict[str, Any]:
    """Return the report of one claim. Raises BenchmarkError."""
    print(f"{claim.id}: {claim.title}", file=sys.stderr, flush=True)
    started = time.monotonic()
    try:
        results = measure(options)
    except (StackError, grpc.RpcError) as error:
        raise BenchmarkError(str(error)) from error
    return report.report(claim, results, options, time.monotonic() - started)


def write(found: dict[str, Any], folder: Path) -> None:
    """Write a report and its picture."""
    report.write(found, folder)
    plot.plot(found, folder)


def table(reports: Sequence[dict[str, Any]]) -> str:
    """Return the reports for a terminal: a line a figure, absolute values beneath."""
    from rich.console import Console
    from rich.table import Table

    lines = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("id", "figure", "measured", "rounds", "must", "beyond", "verdict"):
        lines.add_column(name, justify="right" if name in ("measured", "must", "beyond") else "left")
    for found in reports:
        for figure in found["figures"]:
            sign = "≥" if figure["better"] == "higher" else "≤"
            rounds = figure["rounds"]
            lines.add_row(
                found["id"],
                figure["name"],
                f"{figure['median']:.3f}",
                f"{min(rounds):.3f} … {max(rounds):.3f}",
                "" if figure["must"] is None else f"{sign} {figure['must']:g}",
                "" if figure["beyond"] is None else f"{sign} {figure['beyond']:g}",
                figure["verdict"],
            )
        for absolute in found["absolute"]:
            middle = median(absolute["rounds"])
            lines.add_row("", f"[dim]{absolute['name']}[/]", f"[dim]{middle:,.4g}[/]", f"[dim]{absolute['unit']}[/]")
    console = Console(width=150)
    with console.capture() as captured:
        console.print(lines)
    return captured.get().rstrip()
