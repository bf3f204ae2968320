"""CLI-001: what the playbook-runs command shows of runs, drafts and usage: in a pipe, at a terminal, and as JSON."""

import itertools
import json
import re
import signal
import subprocess
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from devstack.stack import Stack
from tests.support.catalog_file import EXAMPLE
from tests.support.cli import Cli, NewCli, previewed


@pytest.fixture(scope="module")
def seen(new_cli: NewCli, stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> tuple[Cli, dict[str, Any]]:
    """A project with the example shop and one preview that has ended, for tests that only look."""
    cli = new_cli(tmp_path_factory.mktemp("seen"), "--data-dir", str(stack.data_dir.path), "--project", "cli-seen")
    cli.ok("import", EXAMPLE)
    return cli, previewed(cli)


Seen: TypeAlias = tuple[Cli, dict[str, Any]]


class TestCLI_001_Looking:
    def test_a_watch_in_a_pipe_prints_a_line_a_change(self, seen: Seen) -> None:
        cli, run = seen
        lines = cli.ok("watch", run["id"], "--after-sequence", "0").splitlines()
        changes, (outcome, *table, writer, following) = lines[: int(run["sequence"])], lines[int(run["sequence"]) :]
        assert [line.split()[0] for line in changes] == [f"#{n}" for n in range(1, int(run["sequence"]) + 1)]
        assert "QUEUED" in changes[0]
        assert "preview SEO titles  SUCCEEDED  3/3" in changes[-1]
        assert outcome == "SUCCEEDED  suggestions for 3 of 37 affected products"
        assert "before and after" in table[0]
        assert sum("SEO title for" in line for line in table) == 3
        assert writer == "by test-model"
        named = f"--scope-id {run['scope_id']} --rules-hash {run['rules_hash']} --watch {' '.join(cli.options[:2])}"
        assert following.startswith("next: playbook-runs create --project cli-seen ")
        assert following.endswith(named)

    def test_a_watch_at_a_terminal_shows_a_progress_bar(self, seen: Seen) -> None:
        cli, run = seen
        code, written = cli.at_a_terminal("watch", run["id"])
        assert code == 0
        assert "\x1b[" in written  # moves the cursor, in colours
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written)
        assert re.search(r"preview SEO titles ━+ 3/3 SUCCEEDED \d:\d\d:\d\d", plain)
        assert "SUCCEEDED  suggestions for 3 of 37 affected products" in plain

    def test_json_is_one_object_a_line(self, seen: Seen) -> None:
        cli, run = seen
        watched = cli.json("watch", run["id"], "--after-sequence", "0")
        assert [int(line["run"]["sequence"]) for line in watched] == list(range(1, int(run["sequence"]) + 1))
        assert {line["kind"] for line in watched} == {"UPDATED"}
        assert cli.json("get", run["id"]) == [run] == cli.json("list", "--type", "PREVIEW_GENERATE", "--limit", "1")
        assert cli.json("list", "--status", "FAILED") == []

    def test_a_watch_without_a_run_follows_the_project(self, new_cli: NewCli, stack: Stack, tmp_path: Path) -> None:
        cli = new_cli(tmp_path, "--data-dir", str(stack.data_dir.path), "--project", "cli-followed")
        cli.ok("import", EXAMPLE)
        run = previewed(cli)
        watching = cli.popen("watch", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert watching.stdout is not None
        try:
            first = next(iter(watching.stdout.readline, ""))
            assert first.startswith(f"{run['id']}  #{run['sequence']}  ")
            assert first.endswith("preview SEO titles  SUCCEEDED  3/3\n")
            create = ("--playbook", "missing_seo_description", "--type", "PREVIEW_GENERATE")
            (answer,) = cli.json("create", *create)
            new = answer["run"]["id"]
            cli("watch", new)
            (ended,) = cli.json("get", new)
            changes = list(itertools.islice(iter(watching.stdout.readline, ""), int(ended["sequence"])))
            assert [line.split()[:2] for line in changes] == [[new, f"#{n + 1}"] for n in range(len(changes))]
            assert "SUCCEEDED" in changes[-1]
        finally:
            watching.send_signal(signal.SIGINT)
            watching.communicate(timeout=30)

    def test_a_projects_watch_resumes_after_a_position(self, seen: Seen) -> None:
        cli, run = seen
        watching = cli.popen("watch", "--json", "--playbook", "missing_seo_title", stdout=subprocess.PIPE)
        try:
            assert watching.stdout is not None
            snapshot, bookmark = (json.loads(line) for line in itertools.islice(watching.stdout, 2))
        finally:
            watching.send_signal(signal.SIGINT)
            watching.communicate(timeout=30)
        assert (snapshot["kind"], snapshot["run"]) == ("SNAPSHOT", run)
        assert (bookmark["kind"], "run" in bookmark) == ("BOOKMARK", False)
        resumed = cli.popen("watch", "--json", "--playbook", "missing_seo_title", "--after", snapshot["position"],
                            stdout=subprocess.PIPE)  # fmt: skip
        try:
            assert resumed.stdout is not None
            assert json.loads(resumed.stdout.readline()) == bookmark
        finally:
            resumed.send_signal(signal.SIGINT)
            resumed.communicate(timeout=30)

    @pytest.mark.parametrize(
        "arguments", [["--after-sequence", "1"], ["RUN", "--after", "x"], ["RUN", "--type", "APPLY"]], ids=" ".join
    )
    def test_options_of_the_other_watch_are_refused(self, arguments: list[str], seen: Seen) -> None:
        cli, run = seen
        finished = cli("watch", *(run["id"] if argument == "RUN" else argument for argument in arguments))
        assert finished.returncode == 2
        assert "it goes with" in finished.stderr

    def test_get_and_list_are_readable(self, seen: Seen) -> None:
        cli, run = seen
        details = cli.ok("get", run["id"])
        for value in (run["id"], run["scope_id"], run["rules_hash"], run["draft_id"], "SUCCEEDED", "3 of 3"):
            assert value in details
        draft = cli.ok("draft", run["draft_id"], "--limit", "2")
        for words in (run["draft_id"], "PARTIAL", "for 3 of 37 affected products", "by test-model", "(none)"):
            assert words in draft
        assert draft.count("SEO title for") == 2
        assert "2 of 3 suggestions; see all with --limit 3" in draft
        assert "next: playbook-runs create" in draft
        assert "DRAFT_GENERATE" in draft
        (newest,) = cli.json("draft", "--playbook", "missing_seo_title")
        assert newest == cli.json("draft", run["draft_id"])[0]
        assert [item["product_id"] for item in newest["items"]] == sorted(
            item["product_id"] for item in newest["items"]
        )
        usage = cli.ok("usage", "--from", "2026-01-01", "--to", "2026-12-31")
        assert re.search(r"PREVIEW_GENERATE +1 +1 +1 +3 +0 +100 +0 +20\n", usage)
        assert "1, 1 of them with AI" in usage
        assert cli.ok("usage", "--to", "2020-01-01") == "no runs ended from 2019-12-03 to 2020-01-01\n"
        assert "at most 365 days" in cli("usage", "--from", "2020-01-01").stderr
        estimate = cli.ok("estimate", "--playbook", "missing_seo_description", "--max-length", "60")
        for words in (
            *("40 products", "yes", "unlimited", "about 4 requests"),
            *("next: playbook-runs create", '"maxLength": 60'),
        ):
            assert words in estimate
        assert cli.json("estimate", "--playbook", "missing_seo_title")[0]["scope_id"] == run["scope_id"]
        assert cli.ok("items", run["id"]).startswith("no items")
        _heading, listed = cli.ok("list").splitlines()
        assert listed.split()[:5] == [run["id"], "missing_seo_title", "PREVIEW_GENERATE", "SUCCEEDED", "3/3"]
        assert cli.ok("list", "--playbook", "missing_seo_description") == "no runs\n"
