"""CLI-001: what the playbook-runs command refuses, each time in one line that says what to do."""

import re
from pathlib import Path

from devstack.ports import free_ports
from devstack.stack import Stack
from tests.support.catalog_file import EXAMPLE
from tests.support.cli import Cli, NewCli, refused

NO_RUN = "0199d5c2-7c55-7bd4-b9c1-5f1c4a1f6f0e"


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
