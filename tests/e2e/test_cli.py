"""CLI-001: the playbook-runs command as people and scripts use it, each time as a process."""

import csv
import io
import itertools
import json
import re
import shlex
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import pytest

from devstack.ports import free_ports
from devstack.stack import Stack, StackOptions
from tests.support.cli import Cli, Finished, NewCli
from tests.support.openai_protocol import Behaviour
from tests.support.openai_server import OpenAIServer
from tests.support.prepared import Prepared

EXAMPLE = Path(__file__).parents[2] / "examples" / "shop-catalog.csv"
SEO = ("SEO Title", "SEO Description")
NO_RUN = "0199d5c2-7c55-7bd4-b9c1-5f1c4a1f6f0e"


def refused(finished: Finished, *words: str) -> None:
    """The command said in one line what is wrong, with these words in it."""
    assert finished.returncode == 1, finished
    assert finished.stdout == ""
    (line,) = finished.stderr.splitlines()
    assert line.startswith("error: ")
    assert all(word in line for word in words), line


def csv_rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def assert_only_seo_filled(before: Path, after: Path, *, all_filled: bool = True) -> None:
    """Columns, rows and order are kept, what stood there is kept, and each product has its missing texts."""
    old_rows, new_rows = csv_rows(before), csv_rows(after)
    assert len(old_rows) == len(new_rows)
    for old, new in zip(old_rows, new_rows, strict=True):
        assert list(old) == list(new)
        for column, value in old.items():
            if column in SEO and old["Title"] and not value:
                assert bool(new[column].strip()) is all_filled, (old["Handle"], column)
            else:
                assert new[column] == value, (old["Handle"], column)


def assert_only_seo_bytes_differ(before: Path, after: Path) -> None:
    """With the texts that were filled in taken out again, the file is the original, byte for byte."""

    def raw(row: dict[str, str]) -> str:
        line = io.StringIO(newline="")
        csv.writer(line, lineterminator="").writerow([row["Gift Card"], *(row[column] for column in SEO)])
        return f",{line.getvalue()},"

    content, restored, position = after.read_bytes().decode(), "", 0
    for old, new in zip(csv_rows(before), csv_rows(after), strict=True):
        if old != new:
            found = content.index(raw(new), position)
            restored += content[position:found] + raw(old)
            position = found + len(raw(new))
    assert restored + content[position:] == before.read_bytes().decode()


@pytest.fixture
def project() -> str:
    return f"cli-{uuid4().hex[:12]}"


@pytest.fixture
def cli(new_cli: NewCli, stack: Stack, project: str, tmp_path: Path) -> Cli:
    """The command, pointed at the session's stack and at a project of its own."""
    return new_cli(tmp_path, "--data-dir", str(stack.data_dir.path), "--project", project)


def previewed(cli: Cli, *options: str) -> dict[str, Any]:
    """A preview that has ended, as `create --watch --json` prints it last."""
    arguments = ("--playbook", "missing_seo_title", "--type", "PREVIEW_GENERATE", "--watch", *options)
    run: dict[str, Any] = cli.json("create", *arguments)[-1]["run"]
    assert run["status"] == "SUCCEEDED"
    return run


class TestCLI_001_RoundTrip:
    def test_import_both_playbooks_export(self, cli: Cli, project: str) -> None:
        imported = cli.json("import", EXAMPLE, "--plan", "BUSINESS")
        assert imported == [{"project_id": project, "created": 54, "updated": 0}]

        for playbook in ("missing_seo_title", "missing_seo_description"):
            preview = cli.json("create", "--playbook", playbook, "--type", "PREVIEW_GENERATE", "--watch")[-1]["run"]
            named = ("--playbook", playbook, "--scope-id", preview["scope_id"], "--rules-hash", preview["rules_hash"])
            assert cli.json("create", *named, "--type", "DRAFT_GENERATE", "--watch")[-1]["run"]["status"] == "SUCCEEDED"
            applied = cli.json("create", *named, "--type", "APPLY", "--watch")[-1]["run"]
            missing = sum(1 for row in csv_rows(EXAMPLE) if row["Title"] and not row[SEO["description" in playbook]])
            assert int(applied["result"]["updated"]) == missing

        exported = cli.json("export", "--catalog", EXAMPLE, "-o", "improved.csv")
        changed = sum(1 for row in csv_rows(EXAMPLE) if row["Title"] and not (row[SEO[0]] and row[SEO[1]]))
        assert exported == [{"file": "improved.csv", "products": 54, "changed": changed}]
        assert_only_seo_filled(EXAMPLE, cli.folder / "improved.csv")
        assert_only_seo_bytes_differ(EXAMPLE, cli.folder / "improved.csv")

        again = cli.json("import", "improved.csv")
        assert again == [{"project_id": project, "created": 0, "updated": 54}]
        refused(cli("export", "--catalog", EXAMPLE, "-o", "improved.csv"), "improved.csv", "there already")
        cli.ok("export", "--catalog", EXAMPLE, "-o", "improved.csv", "--force")

    def test_what_was_never_improved_comes_back_as_it_was(self, cli: Cli) -> None:
        cli.ok("import", EXAMPLE)
        assert "improved-shop-catalog.csv: 0 of 54" in cli.ok("export", "--catalog", EXAMPLE)
        assert (cli.folder / "improved-shop-catalog.csv").read_bytes() == EXAMPLE.read_bytes()
        assert "improved-shop-catalog-2.csv" in cli.ok("export", "--catalog", EXAMPLE)

    def test_export_without_the_original_gives_a_file_shopify_can_import(self, cli: Cli, project: str) -> None:
        cli.ok("import", EXAMPLE)
        cli.ok("export")
        exported = {row["Handle"]: row for row in csv_rows(cli.folder / f"catalog-{project}.csv")}
        originals = [row for row in csv_rows(EXAMPLE) if row["Title"]]
        assert len(exported) == len(originals)
        for original in originals:
            found = exported[original["Handle"]]
            assert list(found) == ["Handle", "Title", "Body (HTML)", *SEO]
            assert found == {column: original[column] for column in found}

    def test_import_says_what_is_missing(self, cli: Cli, project: str) -> None:
        assert cli.ok("import", EXAMPLE) == (
            f"54 products in {project}: 54 new, 0 brought up to date; "
            "37 without SEO title, 40 without SEO description\n"
        )


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


@pytest.fixture(scope="module")
def inline(stack_folder: Callable[[], Path], stack_env: dict[str, str]) -> Iterator[Stack]:
    """A stack without a broker, whose AI may take its time."""
    options = StackOptions(
        data_dir=stack_folder(),
        broker=False,
        durable=False,
        env=stack_env | {"AI_TIMEOUT_SECONDS": "60", "EXECUTOR_GRACE_SECONDS": "0"},
    )
    with Stack(options) as stack:
        yield stack


class TestCLI_001_WithoutBroker:
    def test_progress_shows_while_the_call_waits_for_the_run(
        self, inline: Stack, openai: OpenAIServer, new_cli: NewCli, tmp_path: Path
    ) -> None:
        cli = new_cli(tmp_path, "--data-dir", str(inline.data_dir.path), "--project", "shop")
        cli.ok("import", EXAMPLE)
        openai.behave(Behaviour(delay_seconds=50, times=1))
        create = ("--playbook", "missing_seo_title", "--type", "PREVIEW_GENERATE", "--watch")
        watching = cli.popen("create", *create, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert watching.stdout is not None
        lines = list(itertools.islice(iter(watching.stdout.readline, ""), 4))
        (run,) = cli.json("list")
        assert run["status"] == "RUNNING"  # the AI has not answered, nor has the call that created the run
        assert openai.stats().in_flight == 1
        assert lines[0].startswith(f"created run {run['id']} (")
        assert [line.split()[0] for line in lines[1:]] == ["#1", "#2", "#3"]
        assert lines[3].endswith("RUNNING  0/3\n")
        cli("cancel", run["id"])
        rest, complaints = watching.communicate(timeout=60)
        assert rest.splitlines()[-1] == "CANCELLED  nothing was changed"
        assert (watching.returncode, complaints) == (1, "")

    def test_a_script_and_a_command_that_does_not_watch_hear_of_the_run_before_it_ends(
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


class TestCLI_001_Refusals:
    def test_a_wrong_file(self, new_cli: NewCli, tmp_path: Path) -> None:
        (tmp_path / "prices.csv").write_text("Name,Price\na,1\n")
        (tmp_path / "broken.csv").write_text('Handle,Title\na,"b\n')
        (tmp_path / "sheet.csv").write_bytes(b"PK\x03\x04\0\0")
        missing, prices, broken, sheet = new_cli(tmp_path).together(
            ["import", "missing.csv", "--project", "p"],
            ["import", "prices.csv", "--project", "p"],
            ["import", "broken.csv", "--project", "p"],
            ["demo", "--catalog", "sheet.csv"],
        )
        refused(missing, "missing.csv", "No such file")
        refused(prices, "prices.csv", "row 1", "no column Handle")
        refused(broken, "broken.csv", "row 2", "not closed")
        refused(sheet, "sheet.csv", "not a CSV file")

    def test_a_missing_server(self, new_cli: NewCli, tmp_path: Path) -> None:
        target = f"127.0.0.1:{free_ports(1)[0]}"
        runs, executor = ("--project", "p", "--target", target), ("--project", "p", "--executor-target", target)
        for finished in new_cli(tmp_path).together(
            ["create", *runs, "--playbook", "missing_seo_title", "--type", "PREVIEW_GENERATE"],
            ["get", *runs, NO_RUN],
            ["list", *runs],
            ["watch", *runs, NO_RUN],
            ["import", *executor, EXAMPLE],
            ["export", *executor],
            ["estimate", *executor, "--playbook", "missing_seo_title"],
            ["draft", *executor, "--playbook", "missing_seo_title"],
            ["items", *executor, NO_RUN],
        ):
            refused(finished, f"nothing answers at {target}", "playbook-runs up")
        assert [file.name for file in tmp_path.iterdir()] == []

    def test_a_folder_without_a_stack(self, new_cli: NewCli, tmp_path: Path) -> None:
        refused(
            new_cli(tmp_path)("list", "--project", "p", "--data-dir", "x"), "no stack runs in x", "playbook-runs up"
        )

    def test_no_token_and_a_bad_one(self, new_cli: NewCli, stack: Stack, tmp_path: Path) -> None:
        cli = new_cli(tmp_path, "--project", "p", "--target", stack.runs_target)
        refused(cli("list"), "authorization", "--token")
        refused(cli("list", PLAYBOOK_RUNS_TOKEN="no.jwt.at-all"), "token is not valid", "--token")

    def test_a_token_of_the_command_is_good(self, new_cli: NewCli, stack: Stack, tmp_path: Path) -> None:
        token = new_cli(tmp_path).ok("token", "--project", "p", "--role", "VIEWER", "--data-dir", stack.data_dir.path)
        cli = new_cli(tmp_path, "--project", "p", "--target", stack.runs_target, "--token", token.strip())
        assert cli.ok("list") == "no runs\n"
        request = ("--playbook", "missing_seo_title", "--type", "PREVIEW_GENERATE")
        refused(cli("create", *request), "EDITOR", "VIEWER")

    def test_bad_values_are_named(self, cli: Cli) -> None:
        create = ("create", "--playbook", "missing_seo_title", "--type")
        (cli.folder / "long.csv").write_text(
            f"Handle,Title,Body (HTML),SEO Title,SEO Description\n{'x' * 256},Lamp,,,\n"
        )
        size, scope, run_id, unknown, rules, replacement, run_type, product = cli.together(
            [*create, "PREVIEW_GENERATE", "--sample-size", "51"],
            [*create, "APPLY"],
            ["get", "not-a-uuid"],
            ["get", NO_RUN],
            [*create, "PREVIEW_GENERATE", "--rules-json", '{"max": 1}'],
            [*create, "PREVIEW_GENERATE", "--replace", "x"],
            [*create, "REPAINT"],
            ["import", "long.csv"],
        )
        refused(size, "meta.sample_size")
        refused(scope, "scope_id: ", "rules_hash: ")
        refused(run_id, "run_id")
        refused(unknown, NO_RUN)
        refused(rules, "--rules-json", "maxLength")
        refused(replacement, "--find")
        assert run_type.returncode == 2
        refused(product, "handle", "255 characters")

    def test_a_project_that_is_not_there_is_named_with_a_command(self, cli: Cli) -> None:
        estimate, draft, which, both = cli.together(
            ["estimate", "--playbook", "missing_seo_title"],
            ["draft", "--playbook", "missing_seo_title"],
            ["draft"],
            ["draft", NO_RUN, "--playbook", "missing_seo_title"],
        )
        refused(estimate, "there is no project", "`playbook-runs import`")
        refused(draft, "has no draft of missing_seo_title yet")
        refused(which, "say which draft")
        refused(both, "say which draft")
        create = cli("create", "--playbook", "missing_seo_title", "--type", "PREVIEW_GENERATE", "--watch")
        assert "PROJECT_NOT_FOUND: There is no project" in create.stdout
        assert "`playbook-runs import`" in create.stdout
        assert "PutProject" not in create.stdout

    def test_names_that_are_empty_and_addresses_without_a_port_are_refused(
        self, new_cli: NewCli, tmp_path: Path
    ) -> None:
        wrong = (
            ("list", "--project", "", "'--project': it is empty"),
            ("export", "--project", " ", "'--project': it is empty"),
            ("get", "--project", "p", "", "'RUN': it is empty"),
            ("retry", "--project", "p", NO_RUN, "--key", "", "'--key': it is empty"),
            ("list", "--project", "p", "--target", "foo", "the port is missing in 'foo'"),
            ("export", "--project", "p", "--executor-target", "foo", "for instance foo:50051"),
        )
        for (*_, message), finished in zip(
            wrong, new_cli(tmp_path).together(*(each[:-1] for each in wrong)), strict=True
        ):
            assert finished.returncode == 2
            assert message in re.sub(r"\s+", " ", finished.stderr)

    def test_with_only_one_service_named_the_other_is_asked_for(self, new_cli: NewCli, tmp_path: Path) -> None:
        cli = new_cli(tmp_path, "--project", "p", "--target", "runs.example:443", "--token", "mine")
        refused(
            cli("draft", "--playbook", "missing_seo_title"), "runs.example:443 is runs-service", "--executor-target"
        )

    def test_what_no_request_can_hold_is_refused_without_a_trace(self, new_cli: NewCli, tmp_path: Path) -> None:
        cli = new_cli(tmp_path, "--project", "p")
        create = ("create", "--playbook", "missing_seo_title", "--type", "PREVIEW_GENERATE")
        large = (
            (*create, "--sample-size", "99999999999"),
            (*create, "--max-length", "99999999999"),
            (*create, "--deadline-seconds", "99999999999"),
            ("watch", NO_RUN, "--after-sequence", "99999999999999999999"),
            ("import", EXAMPLE, "--ai-daily-limit", "99999999999999999999"),
            ("token", "--role", "OWNER", "--hours", "1e9"),
        )
        for command, finished in zip(large, cli.together(*large), strict=True):
            assert finished.returncode == 2
            assert f"Invalid value for '{command[-2]}'" in finished.stderr
            assert "Traceback" not in finished.stderr
        project, token_project, secret, accent, line_break, ca_file = new_cli(tmp_path).together(
            ["list", "--project", "\udcff"],
            ["token", "--role", "OWNER", "--project", "\udcff", "--secret", "x" * 32],
            ["token", "--role", "OWNER", "--project", "p", "--secret", "my-hidden-secret" * 2 + "\udcff"],
            ["list", "--project", "p", "--token", "é"],
            ["import", EXAMPLE, "--project", "p", "--token", "a\nb"],
            ["list", "--project", "p", "--ca-file", str(EXAMPLE)],
        )
        refused(project, r"'\udcff'", "UTF-8")
        refused(token_project, r"'\udcff'", "UTF-8")
        refused(secret, r"'\udcff'", "UTF-8")
        assert "hidden" not in secret.stderr
        refused(accent, "the token has", "--token")
        refused(line_break, "the token has a line break", "--token")
        refused(ca_file, "--ca-file", "no certificate")


@pytest.fixture(scope="module")
def upped(
    new_cli: NewCli, prepared: Prepared, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Cli, int, int]]:
    """`playbook-runs up`, ready, on ports of its own; ends well on SIGTERM."""
    folder = tmp_path_factory.mktemp("up")
    runs_port, executor_port = free_ports(2)
    cli = new_cli(folder, "--data-dir", str(prepared.stack_folder(folder / "stack")))
    ports = ("--runs-port", runs_port, "--executor-port", executor_port, "--no-http")
    process = cli.popen("up", *ports, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout
    line = process.stdout.readline()
    assert "ready" in line, process.communicate(timeout=30)
    yield cli, runs_port, executor_port
    process.send_signal(signal.SIGTERM)
    rest, complaints = process.communicate(timeout=30)
    assert (process.returncode, complaints) == (0, ""), rest
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", runs_port)).close()


class TestCLI_001_Up:
    def test_the_stack_does_the_job_without_any_key(self, upped: tuple[Cli, int, int]) -> None:
        cli, runs_port, _ = upped
        shop = cli.with_options(*cli.options, "--project", "shop")
        shop.ok("import", EXAMPLE)
        run = previewed(shop)
        assert run["ai_used"] is True
        assert shop.json("list", "--target", f"127.0.0.1:{runs_port}") == [run]

    def test_the_printed_token_opens_it(self, upped: tuple[Cli, int, int]) -> None:
        cli, runs_port, _ = upped
        token = cli.ok("token", "--project", "shop-2", "--role", "OWNER").strip()
        elsewhere = cli.with_options("--project", "shop-2", "--target", f"127.0.0.1:{runs_port}", "--token", token)
        assert elsewhere.ok("list") == "no runs\n"

    def test_a_taken_port_is_named(self, new_cli: NewCli, upped: tuple[Cli, int, int], tmp_path: Path) -> None:
        _, runs_port, executor_port = upped
        other = new_cli(tmp_path, "--data-dir", str(tmp_path / "stack"))
        refused(other("up", "--runs-port", runs_port, "--executor-port", free_ports(1)[0], "--no-http"), str(runs_port))
        refused(
            other("up", "--runs-port", free_ports(1)[0], "--executor-port", executor_port, "--no-http"),
            str(executor_port),
        )

    def test_one_folder_has_one_stack(self, upped: tuple[Cli, int, int]) -> None:
        cli, *_ = upped
        refused(cli("up", "--runs-port", free_ports(1)[0]), "already", str(cli.folder / "stack"))


class TestCLI_001_Demo:
    def test_it_improves_the_example_shop(self, new_cli: NewCli, tmp_path: Path) -> None:
        (tmp_path / "improved-shop-catalog.csv").write_text("precious")
        kept = tmp_path / "home/playbook-runs-demo"
        kept.mkdir(parents=True)
        (kept / "secrets.json").write_text("of an earlier demo, which goes")
        cli = new_cli(tmp_path)
        printed = cli.ok("demo")
        assert sorted(file.name for file in tmp_path.iterdir()) == [
            "home",
            "improved-shop-catalog-2.csv",
            "improved-shop-catalog.csv",
        ]
        assert (tmp_path / "improved-shop-catalog.csv").read_text() == "precious"
        assert_only_seo_filled(EXAMPLE, tmp_path / "improved-shop-catalog-2.csv")
        assert_only_seo_bytes_differ(EXAMPLE, tmp_path / "improved-shop-catalog-2.csv")
        for words in (
            "54 products in 125 rows",
            "37 products have no SEO title",
            "40 products have no SEO description",
            "before and after",
            "preview SEO titles  SUCCEEDED  3/3",
            "draft SEO titles  SUCCEEDED  37/37",
            "apply SEO descriptions  SUCCEEDED  40/40",
            "37 SEO titles written",
            "40 SEO descriptions written",
            "offline template writer",
            "improved-shop-catalog-2.csv",
        ):
            assert words in printed

        *_, last = printed.splitlines()
        program, *arguments = shlex.split(last.removeprefix("in a browser: "))
        assert Path(program).name == "playbook-runs"
        assert arguments == ["up", "--data-dir", str(kept), "--project", "demo-shop"]
        with Stack(StackOptions(data_dir=kept, durable=False)):
            runs = cli.json("list", "--project", "demo-shop", "--data-dir", kept)
            assert f"a stack is running in {kept} already" in cli("demo").stderr
        assert [run["status"] for run in runs] == ["SUCCEEDED"] * 6

        again = cli("demo", "--data-dir", kept)
        assert (again.returncode, again.stderr) == (
            1,
            f"error: {kept} has a stack already: the demo needs a folder of its own\n",
        )
