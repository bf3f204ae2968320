"""The alert rules: each is tested and described, and asks for metrics that there are."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from tests.support.operations import documented_alerts, documented_metrics
from tests.support.promtool import run_promtool

FOLDER = Path(__file__).parents[2] / "deploy/prometheus"
RULES = FOLDER / "playbook-runs.rules.yml"
TESTS = FOLDER / "playbook-runs.tests.yml"
# Of Prometheus itself, and of each target.
OF_PROMETHEUS = {"up", "job", "instance"}


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def test_promtool_finds_no_fault_with_the_rules_and_the_example() -> None:
    assert "18 rules found" in run_promtool("check", "rules", str(RULES))
    assert "SUCCESS" in run_promtool("check", "config", str(FOLDER / "prometheus.yml"))


def test_each_alert_comes_when_it_should() -> None:
    assert "SUCCESS" in run_promtool("test", "rules", str(TESTS))


def test_each_alert_is_seen_to_come_and_to_stay_away() -> None:
    comes: set[str] = set()
    stays_away: set[str] = set()
    for test in yaml.safe_load(TESTS.read_text())["tests"]:
        for case in test["alert_rule_test"]:
            (comes if case.get("exp_alerts") else stays_away).add(case["alertname"])
    assert comes == stays_away == {rule["alert"] for rule in rules()}


def test_each_alert_is_described_in_the_order_of_the_rules() -> None:
    assert documented_alerts() == [rule["alert"] for rule in rules()]


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))
def test_an_alert_asks_for_series_that_there_are(rule: dict[str, Any]) -> None:
    selectors = list(selectors_in(promql_parser.parse(rule["expr"])))
    assert selectors
    for selector in selectors:
        labels = {matcher.name for matcher in selector.matchers.matchers} - OF_PROMETHEUS
        assert selector.name in OF_PROMETHEUS or any(
            metric.has(selector.name, labels) for metric in documented_metrics()
        ), selector


def selectors_in(expression: Any) -> Iterator[Any]:
    """Yield the vector selectors of an expression."""
    if isinstance(expression, promql_parser.VectorSelector):
        yield expression
    for name in ("expr", "lhs", "rhs", "vs", "vector_selector", "args"):
        part = getattr(expression, name, None)
        for one in part if isinstance(part, list) else [part]:
            if one is not None and type(one).__module__.startswith("promql_parser"):
                yield from selectors_in(one)
