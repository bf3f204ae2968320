"""The way to the terminal. Texts of services and files pass through here, so that none of them controls the terminal.

Nothing else in this package prints; the linter refuses it.
"""

import json
import sys
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from servicekit.telemetry.printable import printable, printable_json

PIPE_WIDTH = 10_000  # characters; more than the longest error message


def console() -> Console:
    """Return standard output: as wide as the terminal, wide enough for whole ids in a pipe.

    A str that is printed there is markup to it: hand it what `shown` returns, and tables of the kind ValueTable.
    """
    plain = Console(highlight=False)
    return plain if plain.is_terminal else Console(highlight=False, width=140)


def say(line: str) -> None:
    """Print one line; characters that would break it are escaped."""
    print(printable(line), flush=True)


def warn(line: str) -> None:
    """Print one line on standard error, where it does not mix with what a script reads."""
    print(printable(line), file=sys.stderr, flush=True)


def say_table(table: RenderableType) -> None:
    """Print a table as wide as the terminal; in a pipe, each row is one line."""
    out = console()
    out.print(table) if out.is_terminal else Console(highlight=False, width=PIPE_WIDTH).print(table)


def say_json(document: Message | dict[str, Any]) -> None:
    """Print a message, or a dict, as one line of JSON."""
    print(json_line(document), flush=True)


def json_line(document: Message | dict[str, Any]) -> str:
    """Return one line of JSON; messages with the field names of their proto, unset values included."""
    if isinstance(document, Message):
        document = json_format.MessageToDict(
            document, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
    return printable_json(json.dumps(document, ensure_ascii=False))


def shown(value: str, style: str = "") -> Text:
    """Return a text for the console: on one line, with its square brackets as they stand."""
    return Text(printable(value), style=style)


class ValueTable(Table):
    """A table of others' texts: a cell that is a str is shown as it is, not read as markup."""

    def add_row(self, *cells: RenderableType | None, style: Any = None, end_section: bool = False) -> None:
        """Add a row of strs, and of what `shown` returns."""
        texts = [shown(cell) if isinstance(cell, str) else cell for cell in cells]
        super().add_row(*texts, style=style, end_section=end_section)
