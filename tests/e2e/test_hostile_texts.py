"""PRT-003: what others wrote reaches the terminal of the playbook-runs command as text only.

The real command in a pseudo-terminal, on the real stack: with a catalog of hostile titles, with runs that hold hostile
keys, ids and error texts (as they may have been stored before such were refused), and against a hostile server.
"""

import csv
import json
import re
import socket
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from google.rpc import status_pb2
from grpc_health.v1 import health, health_pb2_grpc
from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2 import (
    CancelRunResponse,
    CreateRunResponse,
    GetRunResponse,
    ListRunsResponse,
    RetryRunResponse,
    WatchRunResponse,
)

from devstack.ports import free_ports
from devstack.stack import Stack
from servicekit.telemetry.printable import CONTINUED, printable
from tests.support.cli import Cli, NewCli
from tests.support.http2 import SETTINGS, frame, goaway, say_good_bye

OSC_52 = "\x1b]52;c;cHduZWQ=\x07"
FORGED = "next: playbook-runs purge --all"
EVIL = f"evil{OSC_52}\x9d0;x\x9c\x1b[2J\x1b[1;1H\x7f\u202e"
EVIL += f"[red][link=file:///etc]x[/link] :smile:\n{FORGED}\r\u2028{FORGED}"
SHORT = "e\x1b]52;c;cA==\x07\x9b2J"  # fits into any column
# What Rich writes at a terminal: colours, cursor on and off, cursor up, line cleared. Nothing else has an ESC.
RICH = re.compile(r"\x1b\[(?:[0-9;]*m|\?25[hl]|1A)|\r?\x1b\[2K")
PREVIEW = ("create", "--playbook", "missing_seo_title", "--type", "PREVIEW_GENERATE")
RUN_ID = "0199d5c2-7c55-7bd4-b9c1-5f1c4a1f6f0e"


def assert_obeys_nothing(written: str) -> str:
    """Return what a terminal shows, when nothing that reached it was a command but Rich's own."""
    assert "\x1b]" not in written
    plain = RICH.sub("", written).replace("\r\n", "\n")
    assert re.findall(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202e]", plain) == []
    assert not any(line.startswith(FORGED) for line in plain.splitlines())
    return plain


def folded(plain: str) -> str:
    """The text without the ends of lines, borders and blanks that a table folds it with."""
    return re.sub(r"[\s│┃]+", "", plain)


def catalog(folder: Path) -> Path:
    file = folder / "evil.csv"
    with file.open("w", newline="", encoding="utf-8") as opened:
        rows = csv.writer(opened)
        rows.writerow(["Handle", "Title", "Body (HTML)", "SEO Title", "SEO Description"])
        rows.writerow(["tent", EVIL, EVIL, "", ""])
        rows.writerow(["lamp", f"[bold]Lamp[/bold]{SHORT}", "", "", EVIL])
    return file


def rows(file: Path) -> list[list[str]]:
    with file.open(newline="", encoding="utf-8") as opened:
        return list(csv.reader(opened))


def test_PRT_003_demo_with_hostile_titles_shows_progress_bars_and_text(new_cli: NewCli, tmp_path: Path) -> None:
    original = catalog(tmp_path)
    code, written = new_cli(tmp_path).at_a_terminal("demo", "--catalog", original)
    assert code == 0, written
    assert "━━━" in written
    before, after = rows(original), rows(tmp_path / "improved-evil.csv")
    assert [row[:3] for row in after] == [row[:3] for row in before]
    assert all(all(row[3:]) for row in after)
    plain = folded(assert_obeys_nothing(written))
    assert r"\x1b]52;c;cHduZWQ=\x07\x9d0;x\x9c\x1b[2J" in plain
    assert "[red][link=file:///etc]x[/link]:smile:" in plain
    assert "[bold]Lamp[/bold]" in plain


@pytest.fixture(scope="module")
def evil(new_cli: NewCli, stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> tuple[Cli, str]:
    """A project with hostile titles, and a run of it that failed, with a hostile text in each field that holds one."""
    folder = tmp_path_factory.mktemp("evil")
    cli = new_cli(folder, "--data-dir", str(stack.data_dir.path), "--project", "cli-evil")
    cli.ok("import", catalog(folder))
    run = cli.json(*PREVIEW, "--watch")[-1]["run"]
    with psycopg.connect(stack.postgres.url(database="playbook_runs")) as database:
        found = database.execute("SELECT run FROM runs.runs WHERE id = %s", [run["id"]]).fetchone()
        assert found
        stored = made_evil(Run.FromString(found[0])).SerializeToString()
        database.execute("UPDATE runs.runs SET run = %s WHERE id = %s", [stored, run["id"]])
        database.execute("UPDATE runs.run_events SET run = %s WHERE run_id = %s", [stored, run["id"]])
    return cli, run["id"]


def made_evil(run: Run) -> Run:
    """Write EVIL into each text of a run that failed, but for its id."""
    run.status, run.error_code = Run.FAILED, "INTERNAL_ERROR"
    for field in ("error_message", "idempotency_key", "created_by_user_id", "rules_hash", "scope_id", "draft_id"):
        setattr(run, field, EVIL)
    run.meta.rules.suffix = EVIL
    return run


@pytest.mark.parametrize("command", ["get", "watch", "cancel", "list"])
def test_PRT_003_a_hostile_run_at_a_terminal(evil: tuple[Cli, str], command: str) -> None:
    cli, run_id = evil
    _, written = cli.at_a_terminal(command, *([] if command == "list" else [run_id]))
    plain = folded(assert_obeys_nothing(written))
    assert run_id in plain or command == "watch"
    if command in {"get", "watch"}:
        assert folded(printable(EVIL)) in plain


@pytest.mark.parametrize("command", ["get", "watch", "list"])
def test_PRT_003_a_hostile_run_as_json(evil: tuple[Cli, str], command: str) -> None:
    cli, run_id = evil
    _, written = cli.at_a_terminal(command, "--json", *([] if command == "list" else [run_id]))
    assert "\x1b" not in written
    lines = assert_obeys_nothing(written).splitlines()
    runs = [document.get("run", document) for document in map(json.loads, lines)]
    assert [run["error_message"] for run in runs] == [EVIL]


def test_PRT_003_a_create_that_is_watched(evil: tuple[Cli, str]) -> None:
    cli, _ = evil
    code, written = cli.at_a_terminal(*PREVIEW, "--suffix", EVIL, "--watch")
    assert code == 0, written
    assert_obeys_nothing(written)


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (("list",), "--project"),
        (("list", "--project", "p"), "--scope-id"),
        ((*PREVIEW, "--project", "p"), "--key"),
        ((*PREVIEW, "--project", "p"), "--rules-hash"),
        (("retry", RUN_ID, "--project", "p"), "--key"),
        (("import", "evil.csv"), "--project"),
        (("token", "--role", "OWNER"), "--project"),
        (("token", "--role", "OWNER", "--project", "p"), "--user"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_PRT_003_an_id_with_control_characters_is_refused_before_any_call(
    new_cli: NewCli, tmp_path: Path, command: tuple[str, ...], option: str
) -> None:
    catalog(tmp_path)
    code, written = new_cli(tmp_path).at_a_terminal(*command, option, f"shop{OSC_52}\n{FORGED}")
    plain = assert_obeys_nothing(written)
    assert code in {1, 2}
    for words in (option, "control character", r"shop\x1b]52;c;cHduZWQ=\x07\n"):
        assert words in plain


def test_PRT_003_a_handle_with_a_line_break_is_refused_with_its_row(new_cli: NewCli, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(f'Handle,Title\nlamp,Lamp\n"a{OSC_52}\n{FORGED}",Tent\n', newline="")
    code, written = new_cli(tmp_path, "--project", "p").at_a_terminal("import", "x.csv")
    plain = assert_obeys_nothing(written)
    assert code == 1
    assert r"x.csv, row 3: a handle with a line break or control character, a\x1b]52" in plain


# A server of others


def hostile_run() -> Run:
    run = made_evil(Run(id=EVIL, project_id=EVIL, playbook_id=EVIL, run_type=Run.PREVIEW_GENERATE, retry_of=EVIL))
    run.finished_at.GetCurrentTime()
    run.progress.total = 3
    return run


def in_evil_words(_request: bytes, context: grpc.ServicerContext) -> bytes:
    context.abort(grpc.StatusCode.INVALID_ARGUMENT, EVIL)


def in_words_that_contradict_each_other(_request: bytes, context: grpc.ServicerContext) -> bytes:
    details = status_pb2.Status(code=grpc.StatusCode.NOT_FOUND.value[0], message=EVIL).SerializeToString()
    context.set_trailing_metadata((("grpc-status-details-bin", details),))
    context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"other {EVIL}")


def in_details_that_are_none(_request: bytes, context: grpc.ServicerContext) -> bytes:
    context.set_trailing_metadata((("grpc-status-details-bin", b"\xff\x1b]52;c;x\x07"),))
    context.abort(grpc.StatusCode.INTERNAL, EVIL)


ANSWERS: dict[str, Any] = {
    "GetRun": GetRunResponse(run=hostile_run()),
    "ListRuns": ListRunsResponse(runs=[hostile_run()]),
    "CancelRun": CancelRunResponse(run=hostile_run()),
    "CreateRun": CreateRunResponse(run=hostile_run(), created=True),
    "RetryRun": RetryRunResponse(run=hostile_run(), created=True),
    "WatchRun": WatchRunResponse(kind=WatchRunResponse.SNAPSHOT, run=hostile_run()),
}


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Start a server that answers every call of RunsService: with hostile runs, or as the given function does."""
    servers: list[grpc.Server] = []

    def start(refuse: Callable[[bytes, grpc.ServicerContext], bytes] | None = None) -> str:
        def method(name: str, answer: Any) -> grpc.RpcMethodHandler:
            if refuse:
                return grpc.unary_unary_rpc_method_handler(refuse)
            if name == "WatchRun":
                return grpc.unary_stream_rpc_method_handler(
                    lambda _request, _context: iter([answer.SerializeToString()])
                )
            return grpc.unary_unary_rpc_method_handler(lambda _request, _context: answer.SerializeToString())

        server = grpc.server(futures.ThreadPoolExecutor(4))  # a health watch keeps one of them
        health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
        methods = {name: method(name, answer) for name, answer in ANSWERS.items()}
        handler = grpc.method_handlers_generic_handler("playbooks.runs.v1.RunsService", methods)
        server.add_generic_rpc_handlers((handler,))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        return f"127.0.0.1:{port}"

    yield start
    for server in servers:
        server.stop(None).wait()


@pytest.mark.parametrize(
    "command",
    [
        ("get", RUN_ID),
        ("list",),
        ("watch", RUN_ID),
        ("cancel", RUN_ID),
        ("retry", RUN_ID, "--watch"),
        (*PREVIEW, "--watch"),
    ],
    ids=lambda command: command[0],
)
@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "pipe"])
def test_PRT_003_a_hostile_server(
    new_cli: NewCli, serve: Callable[..., str], tmp_path: Path, command: tuple[str, ...], terminal: bool
) -> None:
    cli = new_cli(tmp_path, "--project", "p", "--target", serve())
    if terminal:
        _, written = cli.at_a_terminal(*command)
    else:
        finished = cli(*command)
        assert finished.stderr == ""
        assert "\x1b" not in finished.stdout
        written = finished.stdout
    assert r"evil\x1b]52;" in folded(assert_obeys_nothing(written))


@pytest.mark.parametrize(
    "refuse", [in_evil_words, in_words_that_contradict_each_other, in_details_that_are_none], ids=lambda f: f.__name__
)
def test_PRT_003_a_server_that_refuses(
    new_cli: NewCli, serve: Callable[..., str], tmp_path: Path, refuse: Callable[[bytes, grpc.ServicerContext], bytes]
) -> None:
    cli = new_cli(tmp_path, "--project", "p", "--target", serve(refuse))
    code, written = cli.at_a_terminal("get", RUN_ID)
    (line,) = assert_obeys_nothing(written).splitlines()
    assert code == 1
    assert line.startswith("error: ")
    assert printable(EVIL) in line


def test_PRT_003_a_server_that_says_good_bye(new_cli: NewCli, tmp_path: Path) -> None:
    """gRPC itself would write the debug text of a GOAWAY to the terminal."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(60)

        def answer() -> None:
            connection, _ = listener.accept()
            listener.close()  # once is enough
            with connection:
                connection.sendall(frame(SETTINGS, 0, 0) + goaway(EVIL))
                while connection.recv(65536):
                    pass

        with futures.ThreadPoolExecutor(1) as pool:
            answered = pool.submit(answer)
            target = f"127.0.0.1:{listener.getsockname()[1]}"
            code, written = new_cli(tmp_path, "--project", "p", "--target", target).at_a_terminal("list")
            answered.result(60)
    (line,) = assert_obeys_nothing(written).splitlines()
    assert code == 1
    assert line.startswith("error: nothing answers")


@pytest.mark.parametrize("service", ["runs", "executors"])
def test_PRT_003_a_peer_writes_nothing_into_the_log_of_a_service(stack: Stack, service: str) -> None:
    replica = getattr(stack, service)[0]
    say_good_bye(replica.target, f"farewell{EVIL}")
    log = replica.log.read_bytes()
    assert b"farewell" not in log
    assert b"\x1b]" not in log


def test_PRT_003_the_log_end_that_up_prints(new_cli: NewCli, tmp_path: Path) -> None:
    data = tmp_path / "stack" / "postgres"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("18\n")
    (data / "postgresql.conf").write_text(f"max_wal_senders = '{OSC_52}\x1b[2J'\n")
    ports = free_ports(2)
    code, written = new_cli(tmp_path).at_a_terminal(
        "up", "--data-dir", tmp_path / "stack", "--runs-port", ports[0], "--executor-port", ports[1], "--no-http"
    )
    message, *log_end = assert_obeys_nothing(written).splitlines()
    assert code == 1
    assert message.startswith("error: postgres ended with exit code")
    assert all(line.startswith(CONTINUED) for line in log_end)
    assert r'invalid value for parameter "max_wal_senders": "\x1b]52;c;cHduZWQ=\x07\x1b[2J"' in "".join(log_end)
