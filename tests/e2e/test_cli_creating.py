"""CLI-001: runs that the playbook-runs command creates, and what it says of how they went."""

import json
import re
import shlex
import subprocess
from uuid import uuid4

from devstack.ports import free_ports
from devstack.stack import Stack
from tests.support.catalog_file import EXAMPLE
from tests.support.cli import Cli, previewed, refused
from tests.support.openai_protocol import Behaviour
from tests.support.openai_server import OpenAIServer


class TestCLI_001_Creating:
    def test_the_same_key_finds_the_run(self, cli: Cli) -> None:
        cli.ok("import", EXAMPLE)
        request = ("--playbook", "missing_seo_title", "--type", "PREVIEW_GENERATE", "--key", "monday")
        first, second = cli.json("create", *request)[0], cli.json("create", *request)[0]
        assert (first["created"], second["created"]) == (True, False)
        assert first["run"]["id"] == second["run"]["id"]
        assert f"found run {first['run']['id']}" in cli.ok("create", *request)

    def test_economy_is_asked_for_by_name(self, cli: Cli) -> None:
        request = ("--playbook", "missing_seo_title", "--type", "PREVIEW_GENERATE")
        (created,) = cli.json("create", *request, "--economy")
        assert created["run"]["meta"]["economy"] is True
        assert re.search(r"economy +yes", cli.ok("get", created["run"]["id"]))

    def test_rules_by_options_and_by_json_mean_the_same(self, cli: Cli) -> None:
        cli.ok("import", EXAMPLE)
        by_options = (
            "--prefix",
            "Nordhang: ",
            "--suffix",
            "!",
            "--max-length",
            "40",
            "--find",
            "SEO",
            "--replace",
            "x",
        )
        rules = {
            "enabled": True,
            "prefix": "Nordhang: ",
            "suffix": "!",
            "maxLength": 40,
            "findReplace": {"find": "SEO", "replace": "x"},
            "forbiddenPhrases": ["cheap", "best"],
        }
        one = previewed(cli, *by_options, "--forbid", "cheap", "--forbid", "best")
        other = previewed(cli, "--rules-json", json.dumps(rules))
        assert one["rules_hash"] == other["rules_hash"]
        assert one["meta"]["rules"]["forbidden_phrases"] == ["cheap", "best"]

    def test_a_run_that_fails_says_why_and_ends_with_1(self, cli: Cli, openai: OpenAIServer) -> None:
        cli.ok("import", EXAMPLE)
        openai.behave(Behaviour(status=401))
        finished = cli("create", "--playbook", "missing_seo_title", "--type", "PREVIEW_GENERATE", "--watch")
        assert finished.returncode == 1
        assert "FAILED  AI_AUTHENTICATION_FAILED: " in finished.stdout.splitlines()[-1]
        _heading, listed = cli.ok("list").splitlines()
        assert listed.rstrip().endswith(finished.stdout.splitlines()[-1].removeprefix("FAILED  "))

    def test_from_the_estimate_on_each_command_names_the_next(self, cli: Cli, openai: OpenAIServer) -> None:
        cli.ok("import", EXAMPLE)
        printed = cli.ok("estimate", "--playbook", "missing_seo_title")
        seen = []
        while following := re.search(r"^(?:next|look): (playbook-runs \w+.*)$", printed, re.MULTILINE):
            _, command, *arguments = shlex.split(following[1])
            seen.append(command)
            printed = cli.with_options().ok(command, *arguments)
        # A preview, a draft, a look at the draft, an apply, a look at its items.
        assert seen == ["create", "create", "draft", "create", "items"]
        assert printed.splitlines()[-1] == "37 UPDATED"
        nothing = cli.ok("create", "--playbook", "missing_seo_title", "--type", "PREVIEW_GENERATE", "--watch")
        assert nothing.splitlines()[-1] == "SUCCEEDED  suggestions for 0 of 0 affected products"
        affected = cli.ok("estimate", "--playbook", "missing_seo_title")
        assert "0 products" in affected
        assert "next:" not in affected

    def test_a_preview_whose_draft_cannot_be_read_has_succeeded_all_the_same(self, cli: Cli, stack: Stack) -> None:
        cli.ok("import", EXAMPLE)
        target = f"127.0.0.1:{free_ports(1)[0]}"
        arguments = ("--playbook", "missing_seo_title", "--type", "PREVIEW_GENERATE", "--watch")
        finished = cli("create", *arguments, "--executor-target", target)
        assert finished.returncode == 0
        assert finished.stderr.startswith(f"the suggestions cannot be shown: nothing answers at {target}")
        assert f"--executor-target {target}" in finished.stdout.splitlines()[-1]

    def test_a_run_that_waits_without_an_executor_says_so_while_it_is_watched(self, cli: Cli, stack: Stack) -> None:
        cli.ok("import", EXAMPLE)
        for executor in stack.executors:
            executor.kill()
        try:
            create = ("--playbook", "missing_seo_title", "--type", "PREVIEW_GENERATE", "--watch")
            waiting = cli.popen("create", *create, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            assert waiting.stdout is not None
            lines = iter(waiting.stdout.readline, "")
            notice = next(line for line in lines if line.startswith("queued; "))
            assert notice == f"queued; no executor serves at {stack.executor_target}; the run starts when one does\n"
        finally:
            for executor in stack.executors:
                executor.start()
            for executor in stack.executors:
                executor.wait_ready()
        rest, complaints = waiting.communicate(timeout=60)
        assert "SUCCEEDED  suggestions for 3 of 37" in rest
        assert (waiting.returncode, complaints) == (0, "")

    def test_a_repeated_command_finds_the_run_of_its_request_id(self, cli: Cli) -> None:
        cli.ok("import", EXAMPLE)
        create = ("create", "--playbook", "missing_seo_title", "--type", "PREVIEW_GENERATE")
        named = (*create, "--request-id", str(uuid4()))
        (first,) = cli.json(*named)
        cli.ok("watch", first["run"]["id"])
        (again,), (other,) = cli.json(*named), cli.json(*create)
        assert (again["run"]["id"], again["created"]) == (first["run"]["id"], True)
        assert again["run"]["status"] == "SUCCEEDED"
        assert other["run"]["id"] != first["run"]["id"]
        refused(cli(*named, "--sample-size", "9"), "request_id belongs to a call with other values", first["run"]["id"])
        refused(cli(*create, "--request-id", "again"), "request_id: must be a UUID")

    def test_plan_and_limit_are_kept_unless_given(self, cli: Cli, project: str, stack: Stack) -> None:
        cli.ok("import", EXAMPLE, "--plan", "FREE")
        cli.ok("import", EXAMPLE)
        finished = cli("create", "--playbook", "missing_seo_title", "--type", "PREVIEW_GENERATE", "--watch")
        assert "PLAN_NOT_ELIGIBLE" in finished.stdout
        cli.ok("import", EXAMPLE, "--plan", "PRO", "--ai-daily-limit", "2")
        finished = cli("create", "--playbook", "missing_seo_title", "--type", "PREVIEW_GENERATE", "--watch")
        assert "AI_DAILY_LIMIT_REACHED" in finished.stdout
