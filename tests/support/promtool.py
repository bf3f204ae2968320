"""promtool, Prometheus' own checker."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest


def run_promtool(*arguments: str, input: str = "") -> str:
    """Run promtool and return what it said; fails when it finds fault. Skips where there is none."""
    tool = os.environ.get("TEST_PROMTOOL") or shutil.which("promtool")
    if not tool:
        pytest.skip("no promtool: TEST_PROMTOOL names one, or put Debian's package prometheus on the PATH")
    command = [str(Path(tool)), *arguments]
    done = subprocess.run(command, input=input, capture_output=True, text=True, timeout=60, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said
