"""Options that several commands take."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from servicekit.telemetry.printable import has_control_characters, printable

INT32_MAX, INT64_MAX = 2**31 - 1, 2**63 - 1  # what the fields of the protos hold


def without_controls(value: str | None) -> str | None:
    """Return an id or key as it was given. Raises typer.BadParameter for one that no service takes."""
    if value is not None and has_control_characters(value):
        raise typer.BadParameter(f"it has a control character, which no id and no key may have: {printable(value)}")
    return value


ProjectOption = Annotated[
    str, typer.Option("--project", metavar="P", help="The project's id.", callback=without_controls)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object a line, for scripts.")]
TargetOption = Annotated[
    str | None,
    typer.Option(
        "--target",
        metavar="HOST:PORT",
        help="Where runs-service answers. [default: the local stack, or 127.0.0.1:50051]",
    ),
]
ExecutorTargetOption = Annotated[
    str | None,
    typer.Option(
        "--executor-target",
        metavar="HOST:PORT",
        help="Where executor-service answers. [default: the local stack, or 127.0.0.1:50052]",
    ),
]
TokenOption = Annotated[
    str | None,
    typer.Option(
        "--token",
        metavar="JWT",
        help="Who you are. [default: PLAYBOOK_RUNS_TOKEN, or an OWNER token for the local stack; with --data-dir that]",
    ),
]
DataDirOption = Annotated[
    Path | None,
    typer.Option("--data-dir", metavar="D", help="The folder of a local stack: gives addresses and a token."),
]
CaFileOption = Annotated[
    Path | None, typer.Option("--ca-file", metavar="PEM", help="Use TLS, and trust these certificates.")
]
CertFileOption = Annotated[
    Path | None, typer.Option("--cert-file", metavar="PEM", help="Your own certificate, for mutual TLS.")
]
KeyFileOption = Annotated[Path | None, typer.Option("--key-file", metavar="PEM", help="The key of --cert-file.")]


class PlaybookId(StrEnum):
    """The playbooks."""

    MISSING_SEO_TITLE = "missing_seo_title"
    MISSING_SEO_DESCRIPTION = "missing_seo_description"


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
