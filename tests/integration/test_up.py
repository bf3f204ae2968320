"""`playbook-runs up`, as people run it: what it prints, how it ends, and what it leaves behind."""

import json
import os
import pty
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urljoin

import jwt
import psutil
import pytest

from devstack.datadir import DataDir
from devstack.ports import HOST, free_ports
from servicekit.health_probe import is_serving
from tests.support.processes import wait_until, wait_until_gone

COMMAND = [sys.executable, "-m", "runs_client", "up"]
OPENAI = {
    "OPENAI_API_KEY": "sk-0123456789",
    "OPENAI_BASE_URL": "http://user:secret@127.0.0.1:9/v1",
    "AI_MODEL": "m-1",
}


class Up:
    """A running `playbook-runs up` in `folder`; `terminal`: it writes to one."""

    def __init__(self, folder: Path, *options: str, env: dict[str, str] | None = None, terminal: bool = False) -> None:
        self.arguments = [*COMMAND, "--data-dir", str(folder), *options]
        ours, theirs = pty.openpty() if terminal else os.pipe()
        self.process = subprocess.Popen(self.arguments, stdout=theirs, stderr=subprocess.PIPE, text=True, env=env)
        os.close(theirs)
        self.output = open(ours)  # noqa: SIM115  # `up` closes it
        self.ready_line = self.output.readline()
        self.pids = [child.pid for child in psutil.Process(self.process.pid).children(recursive=True)]

    def end(self, name: signal.Signals) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(name)
        return self.process.wait(30)

    def kill_executor(self) -> None:
        """Kill the executor that runs now, when there is one."""

        def found() -> list[psutil.Process]:
            children = psutil.Process(self.process.pid).children()
            return [child for child in children if "executor_service" in child.cmdline()]

        wait_until(lambda: bool(found()), "an executor")
        found()[0].kill()

    def page(self) -> str:
        """Return the address of the page, which is the line after the first."""
        name, _, address = self.output.readline().rstrip().partition(": ")
        assert name == "page"
        return address

    def error_line(self) -> str:
        """Return the next line that it writes to stderr."""
        assert self.process.stderr is not None
        return self.process.stderr.readline()

    def errors(self) -> str:
        """Return what it wrote to stderr, once it has ended."""
        return self.process.communicate(timeout=30)[1]


@contextmanager
def up(folder: Path, *options: str, env: dict[str, str] | None = None, terminal: bool = False) -> Iterator[Up]:
    running = Up(folder, *options, env=env, terminal=terminal)
    try:
        assert "ready" in running.ready_line, running.errors()
        yield running
    finally:
        running.process.kill()
        running.process.communicate()
        running.output.close()


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


def test_starts_again_after_kill_9_and_starts_a_process_again_that_dies(
    stack_folder: Callable[[], Path], ports: list[str]
) -> None:
    folder = stack_folder()
    options = ("--runs-port", ports[0], "--executor-port", ports[1], "--http-port", ports[2], "--no-broker")
    with up(folder, *options, env=os.environ | OPENAI) as killed:
        # What is written to a file or a log has no token.
        assert killed.page() == f"http://{HOST}:{ports[2]}/ (it asks for a token: `playbook-runs token`)"
        assert "suggestions by OpenAI's model m-1 at 127.0.0.1" in killed.ready_line
        assert "sk-" not in killed.ready_line
        assert "secret" not in killed.ready_line
        killed.end(signal.SIGKILL)
        assert DataDir(folder).info() is None
        if sys.platform == "linux":
            wait_until_gone(killed.pids)
    with up(folder, *options, "--auth", "disabled", terminal=True) as again:
        assert again.page() == f"http://{HOST}:{ports[2]}/"
        earlier = DataDir(folder).earlier_logs(1)
        assert "serving at" in (earlier / "executor-service.log").read_text()
        again.kill_executor()
        assert again.error_line() == "executor-service was killed by SIGKILL; it is started again\n"
        wait_until(lambda: is_serving(f"{HOST}:{ports[1]}"), "the executor's return")
        assert again.end(signal.SIGINT) == 0
        assert again.errors() == ""
    wait_until_gone(again.pids)


def test_a_process_that_dies_five_times_within_a_minute_ends_the_stack(
    stack_folder: Callable[[], Path], ports: list[str]
) -> None:
    folder = stack_folder()
    options = ("--runs-port", ports[0], "--executor-port", ports[1], "--no-http", "--no-broker")
    with up(folder, *options, env=os.environ | OPENAI | {"AI_PROVIDER": "offline"}) as ending:
        assert "suggestions by the offline template writer" in ending.ready_line
        for _ in range(4):
            ending.kill_executor()
            assert ending.error_line() == "executor-service was killed by SIGKILL; it is started again\n"
        ending.kill_executor()
        errors = ending.errors()
        assert ending.process.returncode == 1
        assert errors.startswith("error: executor-service died 5 times within 60 s; the last time it was killed by")
        assert f"the end of {folder}/logs/executor-service.log:" in errors
        assert "serving at" in errors
    wait_until_gone(ending.pids)


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
