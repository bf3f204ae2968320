"""What the command says when something goes wrong: on one line, or on lines that are marked as its own."""

from collections.abc import Callable

import pytest
from google.rpc import status_pb2

from runs_client import __main__ as command
from runs_client.failures import CommandError
from runs_client.printing import ValueTable, json_line, shown
from servicekit.telemetry.printable import CONTINUED

OSC_52 = "\x1b]52;c;cHduZWQ=\x07"


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception], str]:
    """What the command ends with when it meets an error."""

    def run(error: Exception) -> str:
        def fails() -> None:
            raise error

        monkeypatch.setattr(command, "build_app", lambda: fails)
        with pytest.raises(SystemExit) as end:
            command.main()
        return str(end.value.code)

    return run


def test_an_error_continues_on_marked_lines(said: Callable[[Exception], str]) -> None:
    assert said(CommandError(f"it ended; the end of its log:\na{OSC_52}\nerror: forged")) == (
        f"error: it ended; the end of its log:\n{CONTINUED}a\\x1b]52;c;cHduZWQ=\\x07\n{CONTINUED}error: forged"
    )


def test_an_unexpected_error_shows_its_trace_without_control_characters(said: Callable[[Exception], str]) -> None:
    first, *others = said(ZeroDivisionError(f"{OSC_52}\nnext: forged")).splitlines()
    assert first == "Traceback (most recent call last):"
    assert all(line.startswith(CONTINUED) and line.isprintable() for line in others)
    assert others[-2:] == [
        rf"{CONTINUED}ZeroDivisionError: \x1b]52;c;cHduZWQ=\x07",
        f"{CONTINUED}next: forged",
    ]


def test_square_brackets_and_colons_are_no_markup() -> None:
    assert shown("[red]:smile:[/red]").plain == "[red]:smile:[/red]"
    table = ValueTable("heading")
    table.add_row("[link=file:///etc]x[/link]\n", style="bold")
    (cell,) = table.columns[0].cells
    assert cell.plain == "[link=file:///etc]x[/link]\\n"  # type: ignore[union-attr]


def test_json_keeps_letters_and_escapes_the_rest() -> None:
    status = status_pb2.Status(code=5, message="é\x9b\x7f\u2028\u202e")
    assert json_line(status) == r'{"code": 5, "message": "é\u009b\u007f\u2028\u202e", "details": []}'
