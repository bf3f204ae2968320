"""Expressions of alerts and dashboards, against the metrics that there are."""

from typing import Any

import promql_parser

from tests.support.operations import documented_metrics

# Of Prometheus itself, and of each target.
TARGET_LABELS = {"job", "instance"}
OWN_METRICS = {"up"}


def unknown_in(expression: str) -> list[str]:
    """Return the series and labels of an expression that no process serves. Raises ValueError for no expression."""
    tree = promql_parser.parse(expression)
    selectors: list[Any] = []
    grouped: set[str] = set()

    def visit(node: Any) -> bool:
        if isinstance(node, promql_parser.VectorSelector):
            selectors.append(node)
        if isinstance(node, promql_parser.MatrixSelector):
            selectors.append(node.vector_selector)
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier:
            grouped.update(node.modifier.labels)
        return True

    promql_parser.walk(tree, visit)
    assert selectors, "it asks for nothing"
    # The library may visit the selector within a range by itself, too.
    series = {one.name: {matcher.name for matcher in one.matchers.matchers} - TARGET_LABELS for one in selectors}
    metrics = documented_metrics()
    unknown = [
        f"{name}{sorted(labels)}"
        for name, labels in series.items()
        if name not in OWN_METRICS and not any(metric.has(name, labels) for metric in metrics)
    ]
    known = {
        label for metric in metrics for name in series if metric.has(name, set()) for label in metric.labels | {"le"}
    }
    return unknown + sorted(grouped - known - TARGET_LABELS)
