"""What a process does that migrates beside others; alone in a module, for each of them imports it."""

from pathlib import Path
from threading import Barrier

from servicekit.postgres import migrations


def upgrade_together(url: str, scripts: Path, gate: Barrier) -> None:
    """Migrate when all who wait at the gate are there."""
    gate.wait()
    migrations.upgrade(url, scripts)
