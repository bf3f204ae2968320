"""SIGUSR1, which changes the log's level, to a service that has only begun to start."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import pytest

from devstack.ports import HOST, free_ports
from servicekit.health_probe import is_serving
from tests.support.waiting import eventually

DEADLINE = 30  # seconds

# Each of two processes of a service, and what it does with a signal before it has a loop.
WITHOUT_A_LOOP = """
import signal, sys
import servicekit.held_signals
from servicekit import prefork
from servicekit.telemetry.logs import LevelSwitch

def serve(number):
    sys.stdout.write("begun\\n")
    sys.stdout.flush()
    signal.sigwait([signal.SIGUSR1])
    sys.stdout.write("got it\\n")
    sys.stdout.flush()
    signal.pause()

prefork.run(2, sys.argv[1], serve, LevelSwitch("INFO"), variable="RUNS_LISTEN")
"""


class Started:
    """A Python program, from the moment on at which it is started, and what it writes."""

    def __init__(self, log: Path, *arguments: str, environment: Mapping[str, str] = os.environ) -> None:
        self._log = log
        with log.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, *arguments], env=environment, stdout=output, stderr=output, text=True
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    async def writes(self, words: str, times: int = 1) -> None:
        """Return when it has written `words` that often; fail when it ends before."""
        await eventually(lambda: self.process.poll() is not None or self._log.read_text().count(words) >= times)
        assert self.process.returncode is None


@pytest.mark.parametrize("count", [1, 2])
async def test_a_signal_during_the_imports_changes_the_level_of_all_processes(
    count: int, executor_database: str, tmp_path: Path
) -> None:
    listen = f"{HOST}:{free_ports(1)[0]}"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("EXECUTOR_", "AI_", "OPENAI_"))},
        "EXECUTOR_DATABASE_URL": executor_database,
        "EXECUTOR_LISTEN": listen,
        "EXECUTOR_WORKERS": str(count),
        "AUTH_MODE": "disabled",
        "PYTHONVERBOSE": "1",  # a line for each import, which is how far it has come
    }
    with Started(tmp_path / "log", "-m", "executor_service", environment=environment) as service:
        await service.writes("import 'servicekit.rpc.grpc_log'")  # those that take a second come after it
        service.process.send_signal(signal.SIGUSR1)
        await service.writes('"serving at', times=count)
        assert is_serving(listen, DEADLINE)
        await service.writes("Health/Check OK")  # as at DEBUG only


async def test_a_signal_waits_until_each_process_has_its_loop(tmp_path: Path) -> None:
    with Started(tmp_path / "log", "-c", WITHOUT_A_LOOP, f"{HOST}:{free_ports(1)[0]}") as service:
        await service.writes("begun", times=2)
        service.process.send_signal(signal.SIGUSR1)
        await service.writes("got it", times=2)
