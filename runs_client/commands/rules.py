"""The rules options of `playbook-runs create`."""

from typing import Annotated

import typer
from google.protobuf import json_format
from playbooks.runs.v1.run_pb2 import PlaybookRules

from runs_client.commands.options import INT32_MAX
from runs_client.failures import CommandError

PANEL = "Rules for suggestions"

PrefixOption = Annotated[
    str, typer.Option("--prefix", help="Put before each suggestion as it stands.", rich_help_panel=PANEL)
]
SuffixOption = Annotated[
    str, typer.Option("--suffix", help="Put after each suggestion as it stands.", rich_help_panel=PANEL)
]
MaxLengthOption = Annotated[
    int,
    typer.Option(
        "--max-length",
        min=0,
        max=INT32_MAX,
        metavar="N",
        help="Cut to N characters; 0: no limit.",
        rich_help_panel=PANEL,
    ),
]
FindOption = Annotated[str, typer.Option("--find", help="Literal text to replace, in any case.", rich_help_panel=PANEL)]
ReplaceOption = Annotated[str, typer.Option("--replace", help="What to put in its place.", rich_help_panel=PANEL)]
ForbidOption = Annotated[
    list[str] | None,
    typer.Option("--forbid", metavar="PHRASE", help="Warn of this phrase; may be repeated.", rich_help_panel=PANEL),
]
RulesJsonOption = Annotated[
    str | None,
    typer.Option(
        "--rules-json",
        metavar="JSON",
        help='All rules at once: \'{"enabled": true, "maxLength": 60}\'.',
        rich_help_panel=PANEL,
    ),
]


def rules_from_options(
    *,
    prefix: str,
    suffix: str,
    max_length: int,
    find: str,
    replace: str,
    forbid: list[str] | None,
    rules_json: str | None,
) -> PlaybookRules | None:
    """Return the rules that the options state, enabled; None when they state none. Raises CommandError."""
    if replace and not find:
        raise CommandError("--replace needs --find: which text shall it replace?")
    stated = PlaybookRules(prefix=prefix, suffix=suffix, max_length=max_length, forbidden_phrases=forbid or ())
    if find:
        stated.find_replace.find, stated.find_replace.replace = find, replace
    if rules_json is None:
        if not stated.ByteSize():
            return None
        stated.enabled = True
        return stated
    if stated.ByteSize():
        raise CommandError("--rules-json states all rules: leave the other rules options out")
    try:
        return json_format.Parse(rules_json, PlaybookRules())
    except json_format.ParseError as error:
        raise CommandError(f"--rules-json: {' '.join(str(error).split())}") from error
