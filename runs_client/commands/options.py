"""Options that several commands take."""

from enum import StrEnum
from typing import Annotated

import typer

from servicekit.telemetry.printable import has_control_characters, printable

INT32_MAX, INT64_MAX = 2**31 - 1, 2**63 - 1  # limits of the protos' fields


def without_controls(value: str | None) -> str | None:
    """Return an id or key as it was given. Raises typer.BadParameter for one that no service takes."""
    if value is not None and has_control_characters(value):
        raise typer.BadParameter(f"it has a control character, which no id and no key may have: {printable(value)}")
    return value


def named(value: str) -> str:
    """Return an id that was given. Raises typer.BadParameter for one that names nothing."""
    if not value.strip():
        raise typer.BadParameter("it is empty")
    without_controls(value)
    return value


def named_or_left_out(value: str | None) -> str | None:
    """Return an optional id or key. Raises typer.BadParameter for one that was given and names nothing."""
    return value if value is None else named(value)


ProjectOption = Annotated[str, typer.Option("--project", metavar="P", help="The project's id.", callback=named)]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="The run's id.", callback=named)]
OptionalRunArgument = Annotated[
    str | None, typer.Argument(metavar="RUN", help="The run's id.", callback=named_or_left_out, show_default=False)
]
KeyOption = Annotated[
    str | None,
    typer.Option("--key", help="Idempotency key. [default: derived from the request]", callback=named_or_left_out),
]
RequestIdOption = Annotated[
    str | None,
    typer.Option(
        "--request-id",
        metavar="UUID",
        help="Names this call, for repeats of it. [default: a new one]",
        callback=named_or_left_out,
    ),
]
WatchOption = Annotated[bool, typer.Option("--watch", help="Stay and watch; exit code 1 unless it succeeds.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object a line, for scripts.")]


class PlaybookId(StrEnum):
    """The playbooks."""

    MISSING_SEO_TITLE = "missing_seo_title"
    MISSING_SEO_DESCRIPTION = "missing_seo_description"


PlaybookOption = Annotated[PlaybookId, typer.Option("--playbook", help="Which texts are missing.")]


class RunType(StrEnum):
    """The run types, as in Run.Type."""

    PREVIEW_GENERATE = "PREVIEW_GENERATE"
    DRAFT_GENERATE = "DRAFT_GENERATE"
    APPLY = "APPLY"


class RunStatus(StrEnum):
    """The run states, as in Run.Status."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    STALE = "STALE"
    CANCELLED = "CANCELLED"


class Plan(StrEnum):
    """The plans, as in Project.Plan."""

    FREE = "FREE"
    PRO = "PRO"
    BUSINESS = "BUSINESS"
