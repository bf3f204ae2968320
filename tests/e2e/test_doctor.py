"""`playbook-runs doctor` on a stack that runs, and on one of which a part is gone."""

import json
from pathlib import Path

from devstack.stack import Stack
from tests.support.cli import NewCli

PARTS = ("database", "clock", "schema", "role settings", "broker", "service", "token")


def test_a_stack_that_runs_is_well_and_one_without_its_executor_is_not(
    new_cli: NewCli, lonely_stack: Stack, tmp_path: Path
) -> None:
    doctor = new_cli(tmp_path, "--data-dir", str(lonely_stack.data_dir.path))
    lines = [json.loads(line) for line in doctor.ok("doctor", "--json").splitlines()]
    statuses = {line["check"]: line["status"] for line in lines}
    assert [name for name, status in statuses.items() if status == "failed"] == []
    assert all(statuses[f"{service} {part}"] == "ok" for service in ("runs", "executor") for part in PARTS)

    lonely_stack.executors[0].kill()
    try:
        finished = doctor("doctor")
    finally:
        lonely_stack.executors[0].start()
        lonely_stack.executors[0].wait_ready()
    assert finished.returncode == 1
    sick = [line for line in finished.stdout.splitlines() if line.startswith("FAILED")]
    assert [line.split(": ")[0] for line in sick] == ["FAILED runs → executor", "FAILED executor service"]
    assert "→ start executor-service" in finished.stdout
