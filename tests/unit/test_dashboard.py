"""The dashboard: Grafana's library can read it, and it asks for metrics that there are."""

import json
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from tests.support.operations import documented_metrics
from tests.support.promql import unknown_in

FILE = Path(__file__).parents[2] / "deploy/grafana/playbook-runs.json"
BOARD: dict[str, Any] = json.loads(FILE.read_text())
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
INTERVAL = "$__rate_interval"  # Grafana puts a duration in its place


def expressions() -> list[str]:
    return [target["expr"].replace(INTERVAL, "5m") for panel in PANELS for target in panel["targets"]]


def test_grafanas_library_reads_it_and_drops_nothing() -> None:
    read = JSONEncoder(sort_keys=True, indent=2).encode(Dashboard.from_json(json.loads(FILE.read_text())))
    assert json.loads(read) == BOARD


@pytest.mark.parametrize("expression", sorted(set(expressions())))
def test_an_expression_asks_for_series_that_there_are(expression: str) -> None:
    assert unknown_in(expression) == []


@pytest.mark.parametrize(
    ("expression", "unknown"),
    [
        ("sum by (run_type) (rate(playbook_runs_created_total[5m]))", []),
        ("sum by (status) (rate(playbook_runs_created_total[5m]))", ["status"]),
        ("rate(playbook_runs_created[5m])", ["playbook_runs_created[]"]),
        ('playbook_runs_ended_total{state="FAILED"} or up', ["playbook_runs_ended_total['state']"]),
        ("playbook_runs_wait_seconds", ["playbook_runs_wait_seconds[]"]),
        ("histogram_quantile(0.5, sum by (le) (rate(playbook_runs_wait_seconds_bucket[5m])))", []),
    ],
)
def test_what_no_process_serves_is_found(expression: str, unknown: list[str]) -> None:
    assert unknown_in(expression) == unknown


def test_every_metric_of_ours_is_shown_but_for_the_few_that_alerts_alone_need() -> None:
    text = " ".join(expressions())
    hidden = {one.name for one in documented_metrics() if one.name not in text and not one.name.startswith("process_")}
    assert hidden == {
        "grpc_server_calls_in_flight",
        "playbook_runs_duration_seconds",
        "playbook_runs_inbox_oldest_age_seconds",
        "playbook_runs_unpublished_oldest_age_seconds",
        "playbook_runs_database_up",
        "playbook_runs_database_pool_timeouts_total",
    }


def test_every_panel_says_what_it_shows_and_where_it_stands() -> None:
    assert all(panel["title"] and panel["description"] for panel in PANELS)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in BOARD["panels"]}
    assert len(places) == len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
