"""`playbook-runs up`, as people run it: what it prints, how it ends, and what it leaves behind."""

import json
import os
import signal
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urljoin

import jwt
import pytest

from devstack.datadir import DataDir
from devstack.ports import HOST, free_ports
from servicekit.health_probe import is_serving
from tests.support.processes import wait_until_gone
from tests.support.up import COMMAND, up


@pytest.fixture
def ports() -> list[str]:
    return [str(port) for port in free_ports(3)]


def test_is_ready_when_both_serve_and_stops_everything_on_ctrl_c(tmp_path: Path, ports: list[str]) -> None:
    runs, executor, _ = (f"{HOST}:{port}" for port in ports)
    options = ("--runs-port", ports[0], "--executor-port", ports[1], "--http-port", ports[2])
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AI_", "OPENAI_"))}
    with up(tmp_path, *options, "--project", "my shop", env=clean, terminal=True) as first:
        assert f"HTTP at http://{HOST}:{ports[2]};" in first.ready_line
        with urllib.request.urlopen(f"http://{HOST}:{ports[2]}/readyz", timeout=5) as answer:
            assert json.load(answer)["status"] == "ready"
        page = first.page()
        assert page.startswith(f"http://{HOST}:{ports[2]}/?project=my+shop#token=")
        assert [runs_seen(page, project) for project in ("my%20shop", "another")] == [200, 403]
        claims = jwt.decode(page.partition("#token=")[2], options={"verify_signature": False})
        assert claims["exp"] - claims["iat"] == 12 * 3600
        assert runs in first.ready_line
        assert executor in first.ready_line
        assert "suggestions by the offline template writer; set OPENAI_API_KEY" in first.ready_line
        assert is_serving(runs)
        assert is_serving(executor)
        info = DataDir(tmp_path).info()
        assert info is not None
        assert (info.pid, info.runs_targets, info.executor_targets) == (first.process.pid, [runs], [executor])
        assert info.http_url == f"http://{HOST}:{ports[2]}"

        second = subprocess.run(first.arguments, capture_output=True, text=True, check=False)
        assert second.returncode == 1
        assert f"a stack is running in {tmp_path} already, with pid {first.process.pid}" in second.stderr

        elsewhere = [*COMMAND, "--data-dir", str(tmp_path / "elsewhere"), *options]
        third = subprocess.run(elsewhere, capture_output=True, text=True, check=False)
        assert third.returncode == 1
        assert f"port {ports[1]} on {HOST} is taken" in third.stderr
        assert "--executor-port" in third.stderr

        assert first.end(signal.SIGINT) == 0
        assert first.errors() == ""
    wait_until_gone(first.pids)
    assert DataDir(tmp_path).info() is None


def runs_seen(address: str, project: str) -> int:
    """The status of a list of a project's runs, asked for with the token in the page's address."""
    page, _, token = address.partition("#token=")
    path = f"/api/projects/{project}/automation-playbooks/runs"
    request = urllib.request.Request(urljoin(page, path), headers={"authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


@pytest.mark.parametrize(
    ("options", "port"),
    [
        (("--runs-port", "20001", "--executor-port", "20001"), "20001"),
        (("--runs-port", "50052"), "50052"),
        (("--executor-port", "50051"), "50051"),
        (("--http-port", "50052"), "50052"),
    ],
)
def test_one_port_for_both_services_is_refused(options: tuple[str, ...], port: str, tmp_path: Path) -> None:
    refused = subprocess.run(
        [*COMMAND, "--data-dir", str(tmp_path / "stack"), *options], capture_output=True, text=True, check=False
    )
    assert (refused.returncode, refused.stdout) == (1, "")
    for word in (port, "--executor-port"):
        assert word in refused.stderr
    assert not (tmp_path / "stack").exists()
