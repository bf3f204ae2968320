"""Processes besides the product's: the echo server, rivals' workers."""

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from devstack.process import Process


class Worker(Process):
    """`python -m MODULE ARGUMENTS...`, with our environment and `env`; ready once `ready(log text)` says so."""

    def __init__(
        self,
        module: str,
        *arguments: str,
        log: Path,
        ready: Callable[[str], bool],
        env: Mapping[str, str] | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        super().__init__(module, log, stop_signal=stop_signal)
        self._arguments = arguments
        self._ready = ready
        self._env = dict(env or {})

    def command(self) -> Sequence[str | Path]:
        """Return the command line."""
        return [sys.executable, "-m", self.name, *self._arguments]

    def environment(self) -> Mapping[str, str]:
        """Return our environment with what was given."""
        return {**os.environ, **self._env}

    def prepare(self) -> None:
        """Begin a new log: readiness is read from it."""
        self.log.unlink(missing_ok=True)

    def is_ready(self) -> bool:
        """Look into the log."""
        return self.log.exists() and self._ready(self.log.read_text(errors="replace"))


class Frozen:
    """A process and its children, stopped by SIGSTOP until thawed.

    Its queue is filled meanwhile, so that the clock starts with a worker that is up and has done nothing yet.
    """

    def __init__(self, process: Process) -> None:
        parent = psutil.Process(process.pid)
        self._processes = [parent, *parent.children(recursive=True)]
        for part in self._processes:
            part.suspend()

    def thaw(self) -> None:
        """Resume it."""
        for part in reversed(self._processes):
            part.resume()
