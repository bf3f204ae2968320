"""Metrics, in a registry of their own, served over HTTP for Prometheus."""

from typing import Self

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, start_http_server


class Metrics:
    """The metrics of every service. A service adds its own to `registry`.

    No label is an id, a user or a path: each has a few values that are known beforehand. docs/operations.md has all of
    them.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # CPU, memory, open files; read from /proc when Prometheus asks
        self.calls = Counter("grpc_server_calls_total", "Calls served", ["method", "code"], registry=self.registry)
        self.call_seconds = Histogram(
            "grpc_server_call_seconds", "Time a call took", ["method"], registry=self.registry
        )
        # By method and code, of which there are few: labels() takes as long as counting.
        self._children: dict[tuple[str, str], tuple[Counter, Histogram]] = {}
        self.calls_in_flight = Gauge("grpc_server_calls_in_flight", "Calls under way", ["kind"], registry=self.registry)
        self.broker_connected = Gauge(
            "broker_connected", "1 while the link to the broker is up", ["link"], registry=self.registry
        )
        # `cause` is one of a few: see servicekit.broker.arrival.
        self.broker_messages_refused = Counter(
            "broker_messages_refused_total",
            "Messages put among the dead letters",
            ["queue", "cause"],
            registry=self.registry,
        )

        # The label is the limit, in lower_snake_case. Callers are no label: their number is unbounded.
        self.limits_reached = Counter(
            "limits_reached_total", "Calls that a limit refused", ["limit"], registry=self.registry
        )

    def count_call(self, method: str, code: str, seconds: float) -> None:
        """Count a call and its duration."""
        key = method, code
        if (children := self._children.get(key)) is None:
            self._children[key] = children = self.calls.labels(*key), self.call_seconds.labels(method)
        count, time = children
        count.inc()
        time.observe(seconds)

    @classmethod
    def at(cls, address: str | None) -> Self:
        """Return metrics that are served at HOST:PORT, in a thread, until the process ends; None: nowhere.

        Raises SystemExit when nothing can listen there.
        """
        metrics = cls()
        if address:
            metrics.serve(address)
        return metrics

    def serve(self, address: str) -> None:
        """Serve the metrics at HOST:PORT, in a thread, until the process ends."""
        # When each series began: they would double the counters, and Prometheus does not read them.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        host, _, port = address.rpartition(":")
        try:
            start_http_server(int(port), host.strip("[]"), self.registry)
        except OSError as error:
            raise SystemExit(f"cannot listen on {address} (METRICS_LISTEN): {error.strerror}") from error
