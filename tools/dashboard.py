"""Generate deploy/grafana/playbook-runs.json: the dashboard, by Grafana's own library.

python tools/dashboard.py          write it
python tools/dashboard.py --check  exit 1 when it is not what this file says
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from grafana_foundation_sdk.builders import common, dashboard, prometheus, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import DataSourceRef

FILE = Path(__file__).resolve().parent.parent / "deploy" / "grafana" / "playbook-runs.json"
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
WIDTH, HEIGHT = 8, 7  # of a panel; a row is 24 wide


class Panel(NamedTuple):
    """A panel: expressions by their legend."""

    title: str
    description: str
    unit: str
    expressions: Mapping[str, str]


def quantiles(metric: str, by: str = "") -> Mapping[str, str]:
    """Return the median and the 99th percentile of a histogram, by a label if wanted."""
    labels, legend = (f"le, {by}", f" {{{{{by}}}}}") if by else ("le", "")
    return {
        f"p{percent}{legend}": f"histogram_quantile(0.{percent}, sum by ({labels}) (rate({metric}[$__rate_interval])))"
        for percent in (50, 99)
    }


def rate(metric: str, by: str, legend: str = "") -> Mapping[str, str]:
    """Return the rate of a counter by some of its labels."""
    legend = legend or " ".join(f"{{{{{label.strip()}}}}}" for label in by.split(","))
    return {legend: f"sum by ({by}) (rate({metric}[$__rate_interval]))"}


CREATE = 'grpc_server_call_seconds_bucket{method="/playbooks.runs.v1.RunsService/CreateRun"}'
ROWS: Mapping[str, Sequence[Panel]] = {
    "Runs": [
        Panel("Created", "New runs a second, by type", "ops", rate("playbook_runs_created_total", "run_type")),
        Panel(
            "Ended", "Runs that ended, a second, by how", "ops", rate("playbook_runs_ended_total", "status, error_code")
        ),
        Panel(
            "Now",
            "Runs that wait, and runs under way",
            "short",
            {"queued": "max(playbook_runs_queued)", "running": "max(playbook_runs_running)"},
        ),
        Panel(
            "Oldest queued run",
            "How long the oldest QUEUED run has waited: scale executors by it",
            "s",
            {"age": "max(playbook_runs_oldest_queued_age_seconds)"},
        ),
        Panel(
            "Created to started", "How long runs wait", "s", quantiles("playbook_runs_wait_seconds_bucket", "run_type")
        ),
        Panel(
            "Started to ended", "How long runs work", "s", quantiles("playbook_runs_work_seconds_bucket", "run_type")
        ),
    ],
    "Calls": [
        Panel("Calls", "Calls a second, by status", "ops", rate("grpc_server_calls_total", "job, code")),
        Panel("CreateRun", "Time until a run is accepted", "s", quantiles(CREATE)),
        Panel("HTTP", "Requests a second at the gateway, by status", "ops", rate("http_requests_total", "status")),
        Panel(
            "HTTP times", "Time of requests; event streams count too", "s", quantiles("http_request_seconds_bucket")
        ),
        Panel(
            "Watchers",
            "Open watches, and event streams of the gateway",
            "short",
            {"{{of}}": "sum by (of) (playbook_runs_watchers)", "event streams": "sum(http_streams)"},
        ),
        Panel("Limits", "Calls that a limit refused, a second", "ops", rate("limits_reached_total", "job, limit")),
    ],
    "Execution": [
        Panel(
            "Slots",
            "Runs that executors work on, and how many they could",
            "short",
            {"busy": "sum(playbook_runs_executing)", "all": "sum(playbook_runs_slots)"},
        ),
        Panel(
            "Attempts",
            "Attempts a second; later ones follow a crash, an outage or a restart",
            "ops",
            {
                **rate("playbook_runs_attempts_total", "kind"),
                "leases lost": "sum(rate(playbook_runs_leases_lost_total[$__rate_interval]))",
            },
        ),
        Panel(
            "Waiting to be delivered",
            "Jobs and events to be published, jobs without a slot, cancels without an answer, runs of dead executors",
            "short",
            {
                "jobs": "max(playbook_runs_undispatched)",
                "events": "max(playbook_runs_unpublished)",
                "inbox": "max(playbook_runs_inbox)",
                "cancels": "max(playbook_runs_stops_pending)",
                "expired leases": "max(playbook_runs_leases_expired)",
            },
        ),
        Panel(
            "Mended", "What was lost and made good, a second", "ops", rate("playbook_runs_recovered_total", "what")
        ),
        Panel(
            "Dead letters",
            "Messages that were refused, a second",
            "ops",
            rate("broker_messages_refused_total", "queue, cause"),
        ),
        Panel(
            "Links to the broker",
            "1: all processes have it; 0: one at least has not",
            "short",
            {"{{link}}": "min by (link) (broker_connected)"},
        ),
    ],
    "AI": [
        Panel(
            "Requests", "Requests a second, by how they end", "ops", rate("playbook_runs_ai_requests_total", "outcome")
        ),
        Panel("Request times", "Time of requests", "s", quantiles("playbook_runs_ai_request_seconds_bucket")),
        Panel(
            "Suggestions",
            "Suggestions a second, by where they are from; retries; runs beyond their allowance",
            "ops",
            {
                **rate("playbook_runs_suggestions_total", "source"),
                "retries": "sum(rate(playbook_runs_ai_retries_total[$__rate_interval]))",
                "quota refusals": "sum(rate(playbook_runs_quota_refusals_total[$__rate_interval]))",
            },
        ),
        Panel(
            "Tokens",
            "Tokens a second, by model",
            "short",
            {
                **rate("playbook_runs_ai_input_tokens_total", "model", "in {{model}}"),
                **rate("playbook_runs_ai_cached_input_tokens_total", "model", "cached {{model}}"),
                **rate("playbook_runs_ai_output_tokens_total", "model", "out {{model}}"),
            },
        ),
        Panel(
            "Cost of a day",
            "Dollars in the last 24 hours by AI_PRICES, by model",
            "currencyUSD",
            {"{{model}}": "sum by (model) (increase(playbook_runs_ai_cost_dollars_total[24h]))"},
        ),
    ],
    "Processes": [
        Panel(
            "Connections to the database",
            "Connections in use, and how many there may be",
            "short",
            {
                "busy {{job}} {{pool}}": 'sum by (job, pool) (playbook_runs_database_connections{state="busy"})',
                "all {{job}} {{pool}}": "sum by (job, pool) (playbook_runs_database_pool_size)",
                "waiting {{job}} {{pool}}": "sum by (job, pool) (playbook_runs_database_pool_waiting)",
            },
        ),
        Panel("CPU", "Cores in use", "short", rate("process_cpu_seconds_total", "job, instance")),
        Panel(
            "Memory", "Memory in use", "bytes", {"{{job}} {{instance}}": "process_resident_memory_bytes"}
        ),
    ],
}  # fmt: skip


def build() -> str:
    """Return the dashboard as JSON."""
    board = (
        dashboard.Dashboard("Playbook runs")
        .uid("playbook-runs")
        .description("Generated by tools/dashboard.py. docs/operations.md says what each metric is.")
        .tags(["playbook-runs"])
        .refresh("30s")
        .time("now-3h", "now")
        .timezone("browser")
        .with_variable(dashboard.DatasourceVariable("datasource").type("prometheus").label("Data source"))
    )
    number = 0
    for title, panels in ROWS.items():
        number += 1
        board.with_row(dashboard.Row(title).id(number))
        for panel in panels:
            number += 1
            board.with_panel(_panel(panel, number))
    return JSONEncoder(sort_keys=True, indent=2).encode(board.build()) + "\n"


def _panel(panel: Panel, number: int) -> timeseries.Panel:
    legend = common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
    built = (
        timeseries.Panel()
        .id(number)
        .title(panel.title)
        .description(panel.description)
        .unit(panel.unit)
        .min(0)
        .span(WIDTH)
        .height(HEIGHT)
        .datasource(SOURCE)
        .legend(legend.show_legend(True))
    )
    for letter, (text, expression) in zip("ABCDEFGH", panel.expressions.items(), strict=False):
        built.with_target(prometheus.Dataquery().ref_id(letter).expr(expression).legend_format(text).datasource(SOURCE))
    return built


def main() -> int:
    """Write the dashboard, or check it; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    text = build()
    if not parser.parse_args().check:
        FILE.write_text(text)
    elif FILE.read_text() != text:
        print(f"{FILE} is not what tools/dashboard.py says: run make gen", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
