"""How the pools of connections stand, read when Prometheus asks: nothing is counted where statements run."""

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from servicekit.postgres.database import Database


class PoolMetrics(Collector):
    """The metrics of `pools`, by the name of each, in a `registry`. All are of one server."""

    def __init__(self, registry: CollectorRegistry, pools: Mapping[str, Database]) -> None:
        self._pools = pools
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics as they are now. Runs in Prometheus' thread, and reads numbers only."""
        up = GaugeMetricFamily("playbook_runs_database_up", "0 while the database cannot be used")
        up.add_metric([], float(all(database.is_up for database in self._pools.values())))
        connections = GaugeMetricFamily(
            "playbook_runs_database_connections", "Connections to the database", labels=["pool", "state"]
        )
        size = GaugeMetricFamily(
            "playbook_runs_database_pool_size", "Connections that a pool may have", labels=["pool"]
        )
        waiting = GaugeMetricFamily(
            "playbook_runs_database_pool_waiting", "Statements that wait for a connection", labels=["pool"]
        )
        timeouts = CounterMetricFamily(
            "playbook_runs_database_pool_timeouts_total", "Statements that got no connection in time", labels=["pool"]
        )
        for name, database in self._pools.items():
            use = database.pool_use()
            connections.add_metric([name, "busy"], use.busy)
            connections.add_metric([name, "idle"], use.idle)
            size.add_metric([name], use.size)
            waiting.add_metric([name], use.waiting)
            timeouts.add_metric([name], use.timeouts)
        yield from (up, connections, size, waiting, timeouts)
