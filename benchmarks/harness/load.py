"""Client processes: the load never shares a process with what is measured, nor with what starts the stack."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Self

from benchmarks.harness.checks import BenchmarkError

TIMEOUT = 180.0  # seconds


class Load(AbstractContextManager["Load"]):
    """A client process: `python -m MODULE`, which gets `spec` as a line of JSON; all messages are lines of JSON.

    The client uses `receive()` and `send()` below.
    """

    def __init__(self, module: str, spec: Mapping[str, Any], env: Mapping[str, str] | None = None) -> None:
        self._module = module
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(env or {})},
        )
        self.send(spec)

    def send(self, message: Any) -> None:
        """Send a message to the client."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()

    def receive(self) -> Any:
        """Return the client's next message. Raises BenchmarkError when it ends instead."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise BenchmarkError(f"{self._module} ended with code {self._process.wait(TIMEOUT)} and without a result")
        return json.loads(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()


def load(module: str, *, env: Mapping[str, str] | None = None, **spec: Any) -> Any:
    """Run a client that is asked once and answers once; return its answer."""
    with Load(module, spec, env) as process:
        return process.receive()


# In the client process


def receive() -> Any:
    """Return the benchmark's next message; the first one is the spec."""
    return json.loads(sys.stdin.readline())


def send(message: Any) -> None:
    """Send a message to the benchmark."""
    print(json.dumps(message), flush=True)
