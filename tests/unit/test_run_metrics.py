"""Runs as they are counted: starts, ends, and labels of which there are few."""

from datetime import timedelta
from typing import Any

from playbooks.runs.v1.run_pb2 import Run

from runs_service.metrics import ERROR_CODES, OTHER, RunsMetrics
from servicekit.telemetry.metrics import Metrics
from tests.support.runs import NOW


class Counted:
    """Metrics, and what they say."""

    def __init__(self) -> None:
        self._registry = Metrics()
        self.metrics = RunsMetrics(self._registry)

    def value(self, name: str, **labels: str) -> float | None:
        return self._registry.registry.get_sample_value(f"playbook_runs_{name}", labels)

    def ended(self, status: str, error_code: str = "") -> float | None:
        return self.value("ended_total", run_type="APPLY", status=status, error_code=error_code)


def run(status: Run.Status.ValueType, sequence: int, **fields: Any) -> Run:
    """Return an APPLY that was created at NOW, and changed so many seconds later as its sequence says."""
    made = Run(id="r", run_type=Run.APPLY, status=status, sequence=sequence, **fields)
    made.created_at.FromDatetime(NOW)
    return made


def started(made: Run, after: float) -> Run:
    made.started_at.FromDatetime(NOW + timedelta(seconds=after))
    return made


def finished(made: Run, after: float) -> Run:
    made.finished_at.FromDatetime(NOW + timedelta(seconds=after))
    return made


def test_a_run_counts_once_at_its_start_and_once_at_its_end() -> None:
    counted = Counted()
    counted.metrics.created([run(Run.QUEUED, 1)])
    first = started(run(Run.RUNNING, 2), 2)
    progress = started(run(Run.RUNNING, 3), 2)
    again = started(run(Run.RUNNING, 4, attempt=2), 2)
    counted.metrics.changed([first, progress])
    counted.metrics.changed([again, finished(started(run(Run.SUCCEEDED, 5), 2), 9)])
    assert counted.value("created_total", run_type="APPLY") == 1
    assert counted.ended("SUCCEEDED") == 1
    for name, seconds in (("wait", 2), ("work", 7), ("duration", 9)):
        assert counted.value(f"{name}_seconds_count", run_type="APPLY") == 1, name
        assert counted.value(f"{name}_seconds_sum", run_type="APPLY") == seconds, name


def test_a_run_that_ends_before_it_starts_has_waited_for_nothing_and_done_no_work() -> None:
    counted = Counted()
    counted.metrics.changed([finished(run(Run.CANCELLED, 2), 3)])
    assert counted.ended("CANCELLED") == 1
    assert counted.value("wait_seconds_count", run_type="APPLY") == 0
    assert counted.value("work_seconds_count", run_type="APPLY") == 0
    assert counted.value("duration_seconds_sum", run_type="APPLY") == 3


def test_no_time_is_negative_where_clocks_differ() -> None:
    counted = Counted()
    counted.metrics.changed([started(run(Run.RUNNING, 2), -1)])
    assert counted.value("wait_seconds_sum", run_type="APPLY") == 0


def test_an_executor_that_makes_up_error_codes_makes_few_series() -> None:
    counted = Counted()
    wild = ["lower case", "X" * 99, *(f"CODE_{'A' * n}" for n in range(2 * ERROR_CODES))]
    counted.metrics.changed([finished(run(Run.FAILED, 2, error_code=code), 1) for code in wild])
    named = [code for code in wild if counted.ended("FAILED", code)]
    assert ERROR_CODES - 2 <= len(named) <= ERROR_CODES
    assert counted.ended("FAILED", OTHER) == len(wild) - len(named)
    assert counted.ended("FAILED", "INTERNAL_ERROR") == 0, "a series that begins with 1 has no increase"
