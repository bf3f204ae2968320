"""`playbook-runs create`, `get`, `list` and `watch`: runs, by hand."""

import asyncio
import shlex
from typing import Annotated

import typer
from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2 import CreateRunResponse, RetryRunResponse

from runs_client.client import RunsClient
from runs_client.commands.options import (
    INT32_MAX,
    INT64_MAX,
    CaFileOption,
    CertFileOption,
    DataDirOption,
    JsonOption,
    KeyFileOption,
    PlaybookId,
    ProjectOption,
    RunStatus,
    RunType,
    TargetOption,
    TokenOption,
    without_controls,
)
from runs_client.commands.rules import (
    FindOption,
    ForbidOption,
    MaxLengthOption,
    PrefixOption,
    ReplaceOption,
    RulesJsonOption,
    SuffixOption,
    rules_from_options,
)
from runs_client.endpoints import find_access
from runs_client.printing import console, say, say_json
from runs_client.render import outcome, run_details, run_table
from runs_client.views import follow, outcome_line, view_for

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="The run's id.", callback=without_controls)]


def create(
    *,
    project: ProjectOption,
    playbook: Annotated[PlaybookId, typer.Option(help="Which texts are missing.")],
    run_type: Annotated[RunType, typer.Option("--type", help="What the run does.")],
    scope_id: Annotated[
        str,
        typer.Option(metavar="ID", help="From a preview; needed for drafts and applies.", callback=without_controls),
    ] = "",
    rules_hash: Annotated[
        str, typer.Option(metavar="HASH", help="From a preview, as the scope id.", callback=without_controls)
    ] = "",
    key: Annotated[
        str | None,
        typer.Option("--key", help="Idempotency key. [default: derived from the request]", callback=without_controls),
    ] = None,
    sample_size: Annotated[
        int | None,
        typer.Option(min=1, max=INT32_MAX, metavar="N", help="Products a preview looks at, 1 to 50. [default: 3]"),
    ] = None,
    deadline_seconds: Annotated[
        int | None,
        typer.Option(
            min=1, max=INT32_MAX, metavar="N", help="Fail the run if it has not ended by then. [default: 600]"
        ),
    ] = None,
    watch_it: Annotated[bool, typer.Option("--watch", help="Stay and watch; exit code 1 unless it succeeds.")] = False,
    prefix: PrefixOption = "",
    suffix: SuffixOption = "",
    max_length: MaxLengthOption = 0,
    find: FindOption = "",
    replace: ReplaceOption = "",
    forbid: ForbidOption = None,
    rules_json: RulesJsonOption = None,
    as_json: JsonOption = False,
    target: TargetOption = None,
    token: TokenOption = None,
    data_dir: DataDirOption = None,
    ca_file: CaFileOption = None,
    cert_file: CertFileOption = None,
    key_file: KeyFileOption = None,
) -> None:
    """Create a run: a preview of a few suggestions, a draft of all of them, or an apply that writes them.

    The same request again finds the run it made. Rules are stated for a preview; a draft and an apply name the
    preview's scope id and rules hash.

    Example: playbook-runs create --project shop-1 --playbook missing_seo_title --type PREVIEW_GENERATE
    --max-length 60 --watch
    """
    rules = rules_from_options(
        prefix=prefix,
        suffix=suffix,
        max_length=max_length,
        find=find,
        replace=replace,
        forbid=forbid,
        rules_json=rules_json,
    )
    access = find_access(
        "runs",
        project,
        target=target,
        token=token,
        data_dir=data_dir,
        ca_file=ca_file,
        cert_file=cert_file,
        key_file=key_file,
    )

    async def run() -> Run | None:
        async with access.runs() as client:
            response = await client.create(
                project,
                playbook,
                Run.Type.Value(run_type),
                scope_id=scope_id,
                rules_hash=rules_hash,
                idempotency_key=key,
                sample_size=sample_size,
                rules=rules,
                deadline_seconds=deadline_seconds,
            )
            _print_created(response, as_json=as_json)
            return await _watch(client, response.run, None, as_json=as_json) if watch_it else None

    _end_with(asyncio.run(run()), as_json=as_json)


def get(
    *,
    run_id: RunArgument,
    project: ProjectOption,
    as_json: JsonOption = False,
    target: TargetOption = None,
    token: TokenOption = None,
    data_dir: DataDirOption = None,
    ca_file: CaFileOption = None,
    cert_file: CertFileOption = None,
    key_file: KeyFileOption = None,
) -> None:
    """Show one run: where it stands, what came of it, and the ids that a next run needs.

    Example: playbook-runs get 0199d5c2-7c55-7bd4-b9c1-5f1c4a1f6f0e --project shop-1
    """
    access = find_access(
        "runs",
        project,
        target=target,
        token=token,
        data_dir=data_dir,
        ca_file=ca_file,
        cert_file=cert_file,
        key_file=key_file,
    )

    async def run() -> Run:
        async with access.runs() as client:
            return await client.get(project, run_id)

    found = asyncio.run(run())
    if as_json:
        say_json(found)
    else:
        console().print(run_details(found))


def list_(
    *,
    project: ProjectOption,
    playbook: Annotated[PlaybookId | None, typer.Option(help="Only runs of this playbook.")] = None,
    run_type: Annotated[RunType | None, typer.Option("--type", help="Only runs of this type.")] = None,
    status: Annotated[RunStatus | None, typer.Option(help="Only runs in this state.")] = None,
    scope_id: Annotated[
        str, typer.Option(metavar="ID", help="Only runs of this scope.", callback=without_controls)
    ] = "",
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="Show at most this many.")] = 20,
    as_json: JsonOption = False,
    target: TargetOption = None,
    token: TokenOption = None,
    data_dir: DataDirOption = None,
    ca_file: CaFileOption = None,
    cert_file: CertFileOption = None,
    key_file: KeyFileOption = None,
) -> None:
    """Show a project's runs, newest first.

    Example: playbook-runs list --project shop-1 --status FAILED --json
    """
    access = find_access(
        "runs",
        project,
        target=target,
        token=token,
        data_dir=data_dir,
        ca_file=ca_file,
        cert_file=cert_file,
        key_file=key_file,
    )

    async def run() -> list[Run]:
        found: list[Run] = []
        async with access.runs() as client:
            runs = client.list(
                project,
                playbook_id=playbook or "",
                run_type=Run.Type.Value(run_type) if run_type else Run.TYPE_UNSPECIFIED,
                scope_id=scope_id,
                status=Run.Status.Value(status) if status else Run.STATUS_UNSPECIFIED,
                page_size=min(limit, 100),
            )
            async for one in runs:
                found.append(one)
                if len(found) == limit:
                    break
        return found

    found = asyncio.run(run())
    if as_json:
        for one in found:
            say_json(one)
    elif found:
        console().print(run_table(found))
    else:
        say("no runs")


def watch(
    *,
    run_id: RunArgument,
    project: ProjectOption,
    after_sequence: Annotated[
        int | None,
        typer.Option(min=0, max=INT64_MAX, metavar="N", help="Every change after this one. [default: from now on]"),
    ] = None,
    as_json: JsonOption = False,
    target: TargetOption = None,
    token: TokenOption = None,
    data_dir: DataDirOption = None,
    ca_file: CaFileOption = None,
    cert_file: CertFileOption = None,
    key_file: KeyFileOption = None,
) -> None:
    """Watch a run until it ends: a progress bar at a terminal, a line a change in a pipe.

    A connection that is cut is taken up again where it was. The exit code is 0 if the run succeeds, else 1. Ctrl-C
    ends the watch; the run goes on.

    Example: playbook-runs watch 0199d5c2-7c55-7bd4-b9c1-5f1c4a1f6f0e --project shop-1 --after-sequence 0
    """
    access = find_access(
        "runs",
        project,
        target=target,
        token=token,
        data_dir=data_dir,
        ca_file=ca_file,
        cert_file=cert_file,
        key_file=key_file,
    )

    async def run() -> Run:
        async with access.runs() as client:
            # Asked first, because it says at once when nobody answers; a watch would wait for the server's return.
            found = await client.get(project, run_id)
            return await _watch(client, found, after_sequence, as_json=as_json)

    _end_with(asyncio.run(run()), as_json=as_json)


def cancel(
    *,
    run_id: RunArgument,
    project: ProjectOption,
    as_json: JsonOption = False,
    target: TargetOption = None,
    token: TokenOption = None,
    data_dir: DataDirOption = None,
    ca_file: CaFileOption = None,
    cert_file: CertFileOption = None,
    key_file: KeyFileOption = None,
) -> None:
    """Cancel a run: nothing more of it is written. One that has ended stays as it is.

    The exit code is 0 if the run is CANCELLED, else 1.

    Example: playbook-runs cancel 0199d5c2-7c55-7bd4-b9c1-5f1c4a1f6f0e --project shop-1
    """
    access = find_access(
        "runs",
        project,
        target=target,
        token=token,
        data_dir=data_dir,
        ca_file=ca_file,
        cert_file=cert_file,
        key_file=key_file,
    )

    async def run() -> Run:
        async with access.runs() as client:
            return await client.cancel(project, run_id)

    found = asyncio.run(run())
    if as_json:
        say_json(found)
    else:
        say(f"run {found.id} is {Run.Status.Name(found.status)}")
    if found.status != Run.CANCELLED:
        raise typer.Exit(1)


def retry(
    *,
    run_id: RunArgument,
    project: ProjectOption,
    key: Annotated[
        str | None,
        typer.Option("--key", help="Idempotency key. [default: that of the run to repeat]", callback=without_controls),
    ] = None,
    watch_it: Annotated[bool, typer.Option("--watch", help="Stay and watch; exit code 1 unless it succeeds.")] = False,
    as_json: JsonOption = False,
    target: TargetOption = None,
    token: TokenOption = None,
    data_dir: DataDirOption = None,
    ca_file: CaFileOption = None,
    cert_file: CertFileOption = None,
    key_file: KeyFileOption = None,
) -> None:
    """Ask for the same again: for runs that FAILED, are STALE or were CANCELLED. Asking twice makes one new run.

    Example: playbook-runs retry 0199d5c2-7c55-7bd4-b9c1-5f1c4a1f6f0e --project shop-1 --watch
    """
    access = find_access(
        "runs",
        project,
        target=target,
        token=token,
        data_dir=data_dir,
        ca_file=ca_file,
        cert_file=cert_file,
        key_file=key_file,
    )

    async def run() -> Run | None:
        async with access.runs() as client:
            response = await client.retry(project, run_id, idempotency_key=key)
            _print_created(response, as_json=as_json)
            return await _watch(client, response.run, None, as_json=as_json) if watch_it else None

    _end_with(asyncio.run(run()), as_json=as_json)


async def _watch(client: RunsClient, run: Run, after_sequence: int | None, *, as_json: bool) -> Run:
    with view_for(console(), as_json=as_json) as view:
        return await follow(client.watch(run.project_id, run.id, after_sequence=after_sequence), view, run)


def _print_created(response: CreateRunResponse | RetryRunResponse, *, as_json: bool) -> None:
    if as_json:
        say_json(response)
    else:
        verb = "created" if response.created else "found"
        say(f"{verb} run {response.run.id} ({Run.Status.Name(response.run.status)})")


def _end_with(run: Run | None, *, as_json: bool) -> None:
    """Say what came of a watched run; exit code 1 unless it succeeded."""
    if run is None:
        return
    if not as_json:
        console().print(outcome_line(run, outcome(run)), soft_wrap=True)
        if run.status == Run.SUCCEEDED and run.run_type == Run.PREVIEW_GENERATE:
            say(f"next: {_draft_command(run)}")
    if run.status != Run.SUCCEEDED:
        raise typer.Exit(1)


def _draft_command(preview: Run) -> str:
    arguments = {
        "--project": preview.project_id,
        "--playbook": preview.playbook_id,
        "--type": RunType.DRAFT_GENERATE,
        "--scope-id": preview.scope_id,
        "--rules-hash": preview.rules_hash,
    }
    return shlex.join(["playbook-runs", "create", *(word for pair in arguments.items() for word in pair), "--watch"])
