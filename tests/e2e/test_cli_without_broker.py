"""CLI-001: the playbook-runs command before a stack without a broker, where the call lasts as long as the run."""

import itertools
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from devstack.stack import Stack
from tests.support.catalog_file import EXAMPLE
from tests.support.cli import NewCli
from tests.support.openai_protocol import Behaviour
from tests.support.openai_server import OpenAIServer


@pytest.fixture(scope="module")
def inline(new_stack: Callable[..., Stack], stack_env: dict[str, str]) -> Iterator[Stack]:
    """A stack without a broker, whose AI may take its time."""
    env = stack_env | {"AI_TIMEOUT_SECONDS": "60", "EXECUTOR_GRACE_SECONDS": "0"}
    with new_stack(broker=False, env=env) as stack:
        yield stack


class TestCLI_001_WithoutBroker:
    def test_progress_shows_while_the_call_waits_for_the_run(
        self, inline: Stack, openai: OpenAIServer, new_cli: NewCli, tmp_path: Path
    ) -> None:
        cli = new_cli(tmp_path, "--data-dir", str(inline.data_dir.path), "--project", "shop")
        cli.ok("import", EXAMPLE)
        openai.behave(Behaviour(delay_seconds=50))
        create = ("--playbook", "missing_seo_title", "--type", "PREVIEW_GENERATE", "--watch")
        watching = cli.popen("create", *create, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert watching.stdout is not None
        lines: list[str] = []
        for line in iter(watching.stdout.readline, ""):
            lines.append(line)
            if line.endswith("RUNNING  0/3\n"):  # where that takes less than 10 ms, the start is no change of its own
                break
        (run,) = cli.json("list")
        assert run["status"] == "RUNNING"  # the AI has not answered, nor has the call that created the run
        assert openai.stats().in_flight
        assert lines[0].startswith(f"created run {run['id']} (")
        assert [line.split()[0] for line in lines[1:]] == [f"#{number}" for number in range(1, len(lines))]
        assert lines[-1].endswith("RUNNING  0/3\n")
        cli("cancel", run["id"])
        rest, complaints = watching.communicate(timeout=60)
        assert rest.splitlines()[-1] == "CANCELLED  nothing was changed"
        assert (watching.returncode, complaints) == (1, "")

    def test_a_script_and_a_command_that_does_not_watch_get_the_run_before_it_ends(
        self, inline: Stack, openai: OpenAIServer, new_cli: NewCli, tmp_path: Path
    ) -> None:
        cli = new_cli(tmp_path, "--data-dir", str(inline.data_dir.path), "--project", "shop-3")
        cli.ok("import", EXAMPLE)
        create = ("--playbook", "missing_seo_title", "--type", "PREVIEW_GENERATE")
        openai.behave(Behaviour(delay_seconds=50, times=3))
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        script = cli.popen("create", *create, "--key", "a", "--json", "--watch", **pipes)
        assert script.stdout is not None
        answer, *changes = (json.loads(line) for line in itertools.islice(script.stdout, 3))
        assert answer["created"] is True
        assert [change["run"]["sequence"] for change in changes] == ["1", "2"]
        assert changes[-1]["run"]["status"] == "RUNNING"
        for key, options, stream in (("b", (), "stdout"), ("c", ("--json",), "stderr")):
            with cli.popen("create", *create, "--key", key, *options, **pipes) as silent:
                first, second = itertools.islice(getattr(silent, stream), 2)
                run_id = first.split()[1]
                assert "without a broker the call answers when it has ended" in first
                assert second.startswith(f"watch: playbook-runs watch {run_id} --project shop-3 --data-dir ")
                cli("cancel", run_id)
                assert run_id in silent.communicate(timeout=60)[0]
        cli("cancel", answer["run"]["id"])
        assert json.loads(script.communicate(timeout=60)[0].splitlines()[-1])["run"]["status"] == "CANCELLED"

    def test_a_retry_shows_its_progress_too_and_a_script_gets_the_answer_first(
        self, inline: Stack, openai: OpenAIServer, new_cli: NewCli, tmp_path: Path
    ) -> None:
        cli = new_cli(tmp_path, "--data-dir", str(inline.data_dir.path), "--project", "shop-2")
        cli.ok("import", EXAMPLE)
        openai.behave(Behaviour(status=401, times=1))
        create = ("--playbook", "missing_seo_title", "--type", "PREVIEW_GENERATE")
        failed = cli.json("create", *create)[0]["run"]
        assert failed["status"] == "FAILED"
        openai.behave(Behaviour(delay_seconds=2, times=1))
        printed = cli.ok("retry", failed["id"], "--watch").splitlines()
        assert printed[0].startswith("created run ")
        assert any("RUNNING  0/3" in line for line in printed)
        assert any(line.startswith("SUCCEEDED  suggestions for 3 of 37") for line in printed)
        answer, *changes = cli.json("create", *create, "--watch")
        assert answer["created"] is True
        assert changes[-1]["run"]["status"] == "SUCCEEDED"
