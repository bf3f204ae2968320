"""`playbook-runs up`, as people run it."""

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.support.processes import wait_until

COMMAND = [sys.executable, "-m", "runs_client", "up"]


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
