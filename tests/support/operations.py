"""What docs/operations.md says of metrics and alerts."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs/operations.md"
SERVICES = {
    "all": {"runs-service", "executor-service", "runs-gateway"},
    # The gateway has the names without a sample.
    "services": {"runs-service", "executor-service", "runs-gateway"},
    "runs, executor": {"runs-service", "executor-service"},
    "runs": {"runs-service"},
    "executor": {"executor-service"},
    "gateway": {"runs-gateway"},
}
ROW = re.compile(r"^\| `(\w+)` \| (\w+) \|([^|]*)\| ([^|]+) \| ", re.MULTILINE)


class Metric(NamedTuple):
    """A row of the table."""

    name: str
    kind: str
    labels: frozenset[str]
    services: frozenset[str]

    def has(self, series: str, labels: set[str]) -> bool:
        """Whether this metric has a series of that name, with these labels."""
        if self.kind == "histogram":
            if series == f"{self.name}_bucket":
                return labels <= self.labels | {"le"}
            return series in (f"{self.name}_sum", f"{self.name}_count") and labels <= self.labels
        return series == self.name and labels <= self.labels


def documented_metrics() -> list[Metric]:
    """Return the rows of the table of metrics."""
    return [
        Metric(name, kind, frozenset(re.findall(r"`(\w+)`", labels)), frozenset(SERVICES[of]))
        for name, kind, labels, of in ROW.findall(DOCUMENT.read_text())
    ]


def documented_alerts() -> list[str]:
    """Return the headings below "Alerts", in order."""
    alerts = DOCUMENT.read_text().partition("\n## Alerts\n")[2].partition("\n## ")[0]
    return re.findall(r"^### (\w+)$", alerts, re.MULTILINE)
