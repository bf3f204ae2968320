"""`playbook-runs up` that is killed, and whose processes die."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from devstack.datadir import DataDir
from devstack.ports import HOST, free_ports
from servicekit.health_probe import is_serving
from tests.support.processes import wait_until, wait_until_gone
from tests.support.up import up

OPENAI = {
    "OPENAI_API_KEY": "sk-0123456789",
    "OPENAI_BASE_URL": "http://user:secret@127.0.0.1:9/v1",
    "AI_MODEL": "m-1",
}


@pytest.fixture
def ports() -> list[str]:
    return [str(port) for port in free_ports(3)]


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
