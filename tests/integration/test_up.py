"""`playbook-runs up`, as people run it: what it prints, how it ends, and what it leaves behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from devstack.datadir import DataDir
from devstack.ports import HOST, free_ports
from servicekit.health_probe import is_serving

from .test_devstack import wait_until_gone

COMMAND = [sys.executable, "-m", "runs_client", "up"]


class Up:
    """A running `playbook-runs up` in `folder`."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.arguments = [*COMMAND, "--data-dir", str(folder), *options]
        self.process = subprocess.Popen(self.arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.ready_line = self.process.stdout.readline()
        self.pids = [child.pid for child in psutil.Process(self.process.pid).children(recursive=True)]

    def end(self, name: signal.Signals) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(name)
        return self.process.wait(30)

    def errors(self) -> str:
        """Return what it wrote to stderr, once it has ended."""
        return self.process.communicate(timeout=30)[1]


@contextmanager
def up(folder: Path, *options: str) -> Iterator[Up]:
    running = Up(folder, *options)
    try:
        assert "ready" in running.ready_line, running.errors()
        yield running
    finally:
        running.process.kill()
        running.process.communicate()


@pytest.fixture
def ports() -> list[str]:
    return [str(port) for port in free_ports(2)]


def test_is_ready_when_both_serve_and_stops_everything_on_ctrl_c(tmp_path: Path, ports: list[str]) -> None:
    runs, executor = (f"{HOST}:{port}" for port in ports)
    options = ("--runs-port", ports[0], "--executor-port", ports[1])
    with up(tmp_path, *options) as first:
        assert runs in first.ready_line
        assert executor in first.ready_line
        assert is_serving(runs)
        assert is_serving(executor)
        info = DataDir(tmp_path).info()
        assert info is not None
        assert (info.pid, info.runs_targets, info.executor_targets) == (first.process.pid, [runs], [executor])

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


def test_starts_again_after_kill_9_and_names_a_process_that_dies(
    stack_folder: Callable[[], Path], ports: list[str]
) -> None:
    folder = stack_folder()
    options = ("--runs-port", ports[0], "--executor-port", ports[1], "--no-broker", "--auth", "disabled")
    with up(folder, *options) as killed:
        killed.end(signal.SIGKILL)
        assert DataDir(folder).info() is None
        if sys.platform == "linux":
            wait_until_gone(killed.pids)
    with up(folder, *options) as again:
        victim = next(pid for pid in again.pids if "executor_service" in psutil.Process(pid).cmdline())
        os.kill(victim, signal.SIGKILL)
        errors = again.errors()
        assert again.process.returncode == 1
        assert "executor-service was killed by SIGKILL; the end of" in errors
        assert "serving at" in errors
    wait_until_gone(again.pids)


@pytest.mark.parametrize(
    ("options", "port"),
    [
        (("--runs-port", "20001", "--executor-port", "20001"), "20001"),
        (("--runs-port", "50052"), "50052"),
        (("--executor-port", "50051"), "50051"),
    ],
)
def test_one_port_for_both_services_is_refused(options: tuple[str, ...], port: str, tmp_path: Path) -> None:
    refused = subprocess.run(
        [*COMMAND, "--data-dir", str(tmp_path / "stack"), *options], capture_output=True, text=True, check=False
    )
    assert (refused.returncode, refused.stdout) == (1, "")
    for word in (port, "--runs-port", "--executor-port"):
        assert word in refused.stderr
    assert not (tmp_path / "stack").exists()
