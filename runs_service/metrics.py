"""The metrics of runs: counted where their changes are announced, by the process that committed them."""

import re
from collections import Counter as Tally
from collections.abc import Mapping, Sequence
from typing import Protocol

from google.protobuf.timestamp_pb2 import Timestamp
from playbooks.runs.v1.run_pb2 import Run
from prometheus_client import Counter, Gauge, Histogram

from servicekit.telemetry.metrics import Metrics

# Seconds: runs take from milliseconds without AI to hours of a draft of thousands of products.
BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 14400)
ENDED = frozenset({Run.SUCCEEDED, Run.FAILED, Run.STALE, Run.CANCELLED})
STARTED = 2  # the sequence of a run's first change: it is RUNNING for the first time, or ended before it started
ERROR_CODE = re.compile(r"[A-Z][A-Z_]{0,62}")
ERROR_CODES = 40  # an executor of another release may send more than ours knows
OTHER = "OTHER"


class Counted(Protocol):
    """Something that counts its watchers."""

    @property
    def count(self) -> int:
        """How many there are."""
        ...


class RunsMetrics:
    """What happens to runs. The counts of several processes add up; the gauges of `backlog` are the same at each."""

    def __init__(self, metrics: Metrics) -> None:
        registry = metrics.registry
        created = Counter("playbook_runs_created_total", "Runs created", ["run_type"], registry=registry)
        self._created = {number: created.labels(label) for label, number in Run.Type.items() if number}
        self._ended = Counter(
            "playbook_runs_ended_total",
            "Runs that ended, by how",
            ["run_type", "status", "error_code"],
            registry=registry,
        )
        # By type, status and error code, of which there are few: labels() takes longer than counting.
        self._ends: dict[tuple[int, int, str], Counter] = {}
        self._error_codes: set[str] = {""}
        for label in Run.Type.keys()[1:]:  # of a series that begins with 1 no alert sees the increase
            self._ended.labels(label, "FAILED", self._known("INTERNAL_ERROR"))

        def time(name: str, what: str) -> dict[int, Histogram]:
            family = Histogram(name, what, ["run_type"], buckets=BUCKETS, registry=registry)
            return {number: family.labels(label) for label, number in Run.Type.items() if number}

        self._waits = time("playbook_runs_wait_seconds", "Time from the creation of a run to its start")
        self._work = time(
            "playbook_runs_work_seconds", "Time from the start of a run to its end, later attempts included"
        )
        self._durations = time("playbook_runs_duration_seconds", "Time from the creation of a run to its end")

        # What was found and mended: "lost_job" and "lost_event" by the reconciler, "undispatched" by the outbox' sweep.
        self.recovered = Counter(
            "playbook_runs_recovered_total", "Lost messages that were found and made good", ["what"], registry=registry
        )
        self._watchers = Gauge("playbook_runs_watchers", "Open watches", ["of"], registry=registry)

        def gauge(name: str, what: str) -> Gauge:
            return Gauge(name, what, registry=registry)

        # By the names that store.Backlog gives the sizes.
        self.backlog: Mapping[str, Gauge] = {
            "queued": gauge("playbook_runs_queued", "Runs that are QUEUED"),
            "running": gauge("playbook_runs_running", "Runs that are RUNNING"),
            "oldest_queued": gauge(
                "playbook_runs_oldest_queued_age_seconds", "Age of the oldest run that is QUEUED; 0: none is"
            ),
            "undispatched": gauge("playbook_runs_undispatched", "Runs whose job is not published yet"),
            "stops_pending": gauge("playbook_runs_stops_pending", "Cancels that the executor has not answered yet"),
        }

    def watch(self, *, runs: Counted, projects: Counted) -> None:
        """Read the number of watchers from these, at each scrape."""
        self._watchers.labels("run").set_function(lambda: runs.count)
        self._watchers.labels("project").set_function(lambda: projects.count)

    def created(self, runs: Sequence[Run]) -> None:
        """Count new runs."""
        for run_type, count in Tally(run.run_type for run in runs).items():
            self._created[run_type].inc(count)

    def changed(self, changes: Sequence[Run]) -> None:
        """Count the starts and the ends among changes of runs."""
        for run in changes:
            if run.status in ENDED:
                self._count_end(run)
            elif run.sequence == STARTED:
                self._waits[run.run_type].observe(_seconds(run.created_at, run.started_at))

    def _count_end(self, run: Run) -> None:
        end = run.run_type, run.status, self._known(run.error_code)
        if (count := self._ends.get(end)) is None:
            labels = Run.Type.Name(run.run_type), Run.Status.Name(run.status), end[2]
            self._ends[end] = count = self._ended.labels(*labels)
        count.inc()
        self._durations[run.run_type].observe(_seconds(run.created_at, run.finished_at))
        if run.HasField("started_at"):
            self._work[run.run_type].observe(_seconds(run.started_at, run.finished_at))

    def _known(self, error_code: str) -> str:
        """Return an error code as a label, of which there must be few."""
        if error_code not in self._error_codes:
            if len(self._error_codes) > ERROR_CODES or not ERROR_CODE.fullmatch(error_code):
                return OTHER
            self._error_codes.add(error_code)
        return error_code


def _seconds(start: Timestamp, end: Timestamp) -> float:
    """Return the time between two moments; the clocks of two machines may differ."""
    return max(end.seconds - start.seconds + (end.nanos - start.nanos) / 1e9, 0.0)
