"""PRT-002: no text from outside makes a log line of its own, or reaches the terminal that shows the log."""

import io
import json
import logging
import re
import sys
from collections.abc import Iterator

import pytest

from servicekit.telemetry import logs
from servicekit.telemetry.printable import CONTINUED, printable

FORGED = "2026-01-01 00:00:00.000 INFO    forged  logger=x"
HOSTILE = f"shop\n{FORGED}\r\n{FORGED}\u2028{FORGED}\x85{FORGED}\x1b]52;c;cHduZWQ=\x07\x9d0;x\x9c\x7f\u202e\ud800"
LINE = re.compile(r"\d{4}-\d\d-\d\d ")


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    logs.bind(request_id="", project_id="")


def log(*, error: Exception | None = None) -> None:
    """Log a hostile text in every place that a line has: message, name, value, name of a value, trace."""
    logs.bind(project_id=HOSTILE)
    logging.getLogger(HOSTILE).warning("run of %s", HOSTILE, extra={"user": HOSTILE, HOSTILE: 1}, exc_info=error)


def raised() -> Exception:
    try:
        try:
            raise KeyError(HOSTILE)
        except KeyError as cause:
            raise ValueError(HOSTILE) from cause
    except ValueError as error:
        return error


def test_a_hostile_text_is_one_console_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(service="runs-service", format="console", level="INFO")
    log()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.isprintable()
    for part in (f"run of {printable(HOSTILE)}", f"user={printable(HOSTILE)}", f"project_id={printable(HOSTILE)}"):
        assert part in line


def test_no_line_of_a_trace_looks_like_a_line_of_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(service="runs-service", format="console", level="INFO")
    log(error=raised())
    line, *trace = capsys.readouterr().err.splitlines()
    assert LINE.match(line)
    assert all(part.startswith(CONTINUED) and part.isprintable() for part in trace)
    logged = "\n".join(part.removeprefix(CONTINUED) for part in trace)
    assert "Traceback (most recent call last):\n" in logged  # a trace is still one to read
    assert '  File "' in logged
    assert f"ValueError: shop\n{FORGED}" in logged


@pytest.mark.parametrize("error", [None, raised()], ids=["line", "trace"])
def test_a_json_line_is_one_object_without_a_control_character(
    error: Exception | None, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure(service="runs-service", format="json", level="INFO")
    log(error=error)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.isprintable()
    record = json.loads(line)
    assert record["message"] == f"run of {HOSTILE}"
    assert record["logger"] == record["user"] == record["project_id"] == HOSTILE
    assert record[HOSTILE] == 1
    if error:
        assert f"ValueError: {HOSTILE}" in record["exception"]


@pytest.mark.parametrize("format", ["json", "console"])
def test_what_is_printable_stays_as_it_is(format: str, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(service="runs-service", format=format, level="INFO")
    logging.getLogger("x").warning("Désolé, 東京 ☕")
    assert "Désolé, 東京 ☕" in capsys.readouterr().err


def test_joined_lines_are_written_at_the_end_of_the_block_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(service="s", format="json", level="INFO")

    def log_both() -> None:
        with logs.joined():
            logging.getLogger("t").info("one")
            logging.getLogger("t").warning("two")
            assert capsys.readouterr().err == ""
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        log_both()
    logging.getLogger("t").info("after")
    assert [json.loads(line)["message"] for line in capsys.readouterr().err.splitlines()] == ["one", "two", "after"]


def test_joined_lines_that_cannot_be_written_raise_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    monkeypatch.setattr(sys, "stderr", closed)
    logs.configure(service="s", format="json", level="INFO")
    closed.close()
    monkeypatch.setattr(sys, "stderr", said := io.StringIO())
    with logs.joined():
        logging.getLogger("t").info("one")
    assert "Logging error" in said.getvalue()
