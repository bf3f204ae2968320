"""The way to the terminal: the texts of services and files pass through here, and none of them is obeyed by it.

Nothing else in this package prints; the linter sees to that.
"""

import json
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from servicekit.telemetry.printable import printable, printable_json


def console() -> Console:
    """Return standard output: as wide as the terminal, wide enough for whole ids in a pipe.

    A str that is printed there is markup to it: hand it what `shown` returns, and tables of the kind ValueTable.
    """
    plain = Console(highlight=False)
    return plain if plain.is_terminal else Console(highlight=False, width=140)


def say(line: str) -> None:
    """Print one line, whatever is in it."""
    print(printable(line), flush=True)


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
