"""The metrics of the gateway."""

from prometheus_client import Counter, Gauge, Histogram

from servicekit.telemetry.metrics import Metrics

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class GatewayMetrics:
    """Requests by method, route and status, and open event streams; in the registry of `metrics`."""

    def __init__(self, metrics: Metrics) -> None:
        registry = metrics.registry
        self._requests = Counter(
            "http_requests_total", "Requests answered; status 0: the client left", ["method", "route", "status"],
            registry=registry,
        )  # fmt: skip
        self._seconds = Histogram("http_request_seconds", "Time a request took", ["route"], registry=registry)
        self.streams = Gauge("http_streams", "Open event streams", registry=registry)

    def count(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request. `route` is its template, for paths are without number, and so are made-up methods."""
        self._requests.labels(method if method in METHODS else "other", route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)
