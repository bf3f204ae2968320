"""The metrics of executions."""

from collections.abc import Mapping

from prometheus_client import Counter, Gauge

from servicekit.telemetry.metrics import Metrics


class ExecutorMetrics:
    """What an executor does. The counts of several processes add up; the gauges of `backlog` are the same at each."""

    def __init__(self, metrics: Metrics, *, slots: int) -> None:
        registry = metrics.registry
        attempts = Counter("playbook_runs_attempts_total", "Attempts at runs that began", ["kind"], registry=registry)
        self._first, self._later = attempts.labels("first"), attempts.labels("later")
        self.leases_lost = Counter(
            "playbook_runs_leases_lost_total", "Attempts whose lease was gone before they ended", registry=registry
        )
        self.executing = Gauge("playbook_runs_executing", "Runs that this process works on", registry=registry)
        Gauge("playbook_runs_slots", "Runs that this process can work on at once", registry=registry).set(slots)

        suggestions = Counter(
            "playbook_runs_suggestions_total", "Suggestions for products, by where they are from", ["source"],
            registry=registry,
        )  # fmt: skip
        self.suggestions_made, self.suggestions_reused = suggestions.labels("provider"), suggestions.labels("stored")
        self.quota_refusals = Counter(
            "playbook_runs_quota_refusals_total",
            "Runs that did not fit into their project's AI allowance",
            registry=registry,
        )

        def gauge(name: str, what: str) -> Gauge:
            return Gauge(name, what, registry=registry)

        # By the names that store.Backlog gives the sizes.
        self.backlog: Mapping[str, Gauge] = {
            "inbox": gauge("playbook_runs_inbox", "Runs that wait for an executor with a free slot"),
            "oldest_inbox": gauge(
                "playbook_runs_inbox_oldest_age_seconds", "Age of the oldest of these runs; 0: there is none"
            ),
            "leases_expired": gauge(
                "playbook_runs_leases_expired", "Runs whose executor is gone and that nobody took over yet"
            ),
            "unpublished": gauge("playbook_runs_unpublished", "Runs with a change that is not published yet"),
            "oldest_unpublished": gauge(
                "playbook_runs_unpublished_oldest_age_seconds",
                "Time since the oldest of these changes; 0: there is none",
            ),
        }

    def attempted(self, attempt: int) -> None:
        """Count an attempt, from 1."""
        (self._first if attempt == 1 else self._later).inc()
