"""Measurements, in a registry of their own, served over HTTP for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server


class Metrics:
    """What every service measures. A service adds its own to `registry`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.calls = Counter("grpc_server_calls", "Calls served", ["method", "code"], registry=self.registry)
        self.call_seconds = Histogram(
            "grpc_server_call_seconds", "Time a call took", ["method"], registry=self.registry
        )
        self.broker_connected = Gauge(
            "broker_connected", "1 while the link to the broker is up", ["link"], registry=self.registry
        )

    def serve(self, address: str) -> None:
        """Serve the measurements at HOST:PORT, in a thread, until the process ends."""
        host, _, port = address.rpartition(":")
        try:
            start_http_server(int(port), host, self.registry)
        except OSError as error:
            raise SystemExit(f"cannot listen on {address} (METRICS_LISTEN): {error.strerror}") from error
