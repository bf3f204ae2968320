"""All claims: `python -m benchmarks`, or `make bench`. Ends with 1 when one is missed or void."""

import importlib
import pkgutil
import sys
import time

import benchmarks
from benchmarks.harness.checks import BenchmarkError
from benchmarks.harness.claim import Options
from benchmarks.harness.command import DOCS, arguments, measured, table, write


def main() -> int:
    """Run the claims that are asked for, in order; print a table and write results and plots."""
    parser = arguments("Measure what docs/performance.md claims.")
    parser.add_argument("claims", nargs="*", metavar="ID", help="P1, P2, ...; all when left out")
    chosen = parser.parse_args()
    wanted = {claim.upper() for claim in chosen.claims}
    output = chosen.output or (None if chosen.quick else DOCS)
    started, reports, void = time.monotonic(), [], {}
    names = sorted(module.name for module in pkgutil.iter_modules(benchmarks.__path__) if module.name[0] == "p")
    for name in names:
        script = importlib.import_module(f"benchmarks.{name}")
        if wanted and script.CLAIM.id not in wanted:
            continue
        try:
            found = measured(script.CLAIM, script.measure, Options(rounds=chosen.rounds, quick=chosen.quick))
        except BenchmarkError as error:
            void[script.CLAIM.id] = str(error)
            continue
        reports.append(found)
        if output:
            write(found, output)
        print(table([found]), file=sys.stderr, flush=True)
    print(table(reports))
    for claim, reason in void.items():
        print(f"{claim} is void: {reason}")
    print(f"{len(reports)} claims in {time.monotonic() - started:.0f} s")
    missed = any(figure["verdict"] == "missed" for found in reports for figure in found["figures"])
    return 1 if missed or void else 0


if __name__ == "__main__":
    sys.exit(main())
