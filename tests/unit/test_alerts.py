"""The alert rules: each is tested and described, and asks for metrics that there are."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.operations import documented_alerts
from tests.support.promql import unknown_in
from tests.support.promtool import run_promtool

FOLDER = Path(__file__).parents[2] / "deploy/prometheus"
RULES = FOLDER / "playbook-runs.rules.yml"
TESTS = FOLDER / "playbook-runs.tests.yml"


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def test_promtool_finds_no_fault_with_the_rules_and_the_example() -> None:
    assert "19 rules found" in run_promtool("check", "rules", str(RULES))
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
    assert unknown_in(rule["expr"]) == []
