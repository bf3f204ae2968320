"""What all claims share: stacks, rounds, checks, reports and plots."""

from benchmarks.harness import checks
from benchmarks.harness.checks import BenchmarkError, require
from benchmarks.harness.claim import Absolute, Claim, Figure, Options, Results
from benchmarks.harness.command import run_claim
from benchmarks.harness.load import Load, load
from benchmarks.harness.rounds import alternate, best_of, outclassed, per_round, relieve
from benchmarks.harness.stack import Database, durable_stack, make_database, make_project

__all__ = [
    "Absolute",
    "BenchmarkError",
    "Claim",
    "Database",
    "Figure",
    "Load",
    "Options",
    "Results",
    "alternate",
    "best_of",
    "checks",
    "durable_stack",
    "load",
    "make_database",
    "make_project",
    "outclassed",
    "per_round",
    "relieve",
    "require",
    "run_claim",
]
