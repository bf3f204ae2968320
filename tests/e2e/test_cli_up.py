"""CLI-001: the stacks that the playbook-runs command starts itself, by `up` and by `demo`."""

import shlex
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from devstack.ports import free_ports
from devstack.stack import Stack, StackOptions
from tests.support.catalog_file import EXAMPLE, assert_only_seo_bytes_differ, assert_only_seo_filled
from tests.support.cli import Cli, NewCli, previewed, refused
from tests.support.forking import LoadedOnce
from tests.support.prepared import Prepared


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
    def test_it_improves_the_example_shop(self, new_cli: NewCli, loaded: LoadedOnce, tmp_path: Path) -> None:
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
        with Stack(StackOptions(data_dir=kept, durable=False, spawn=loaded.spawn)):
            runs = cli.json("list", "--project", "demo-shop", "--data-dir", kept)
            assert f"a stack is running in {kept} already" in cli("demo").stderr
        assert [run["status"] for run in runs] == ["SUCCEEDED"] * 6

        again = cli("demo", "--data-dir", kept)
        assert (again.returncode, again.stderr) == (
            1,
            f"error: {kept} has a stack already: the demo needs a folder of its own\n",
        )
