"""`playbook-runs create`."""

import asyncio
from typing import Annotated

import typer
from playbooks.runs.v1.run_pb2 import PlaybookRules, Run

from runs_client.commands.creating import Creation
from runs_client.commands.options import (
    INT32_MAX,
    JsonOption,
    KeyOption,
    PlaybookOption,
    ProjectOption,
    RequestIdOption,
    RunType,
    WatchOption,
    without_controls,
)
from runs_client.commands.outcome import end_with
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
from runs_client.commands.services import with_service_options
from runs_client.endpoints import ServiceOptions


@with_service_options
def create(
    *,
    services: ServiceOptions,
    project: ProjectOption,
    playbook: PlaybookOption,
    run_type: Annotated[RunType, typer.Option("--type", help="What the run does.")],
    scope_id: Annotated[
        str,
        typer.Option(metavar="ID", help="From a preview; needed for drafts and applies.", callback=without_controls),
    ] = "",
    rules_hash: Annotated[
        str, typer.Option(metavar="HASH", help="From a preview, as the scope id.", callback=without_controls)
    ] = "",
    key: KeyOption = None,
    request_id: RequestIdOption = None,
    sample_size: Annotated[
        int | None,
        typer.Option(min=1, max=INT32_MAX, metavar="N", help="Products a preview looks at, 1 to 50. [default: 3]"),
    ] = None,
    deadline_seconds: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=INT32_MAX,
            metavar="N",
            help="Fail the run if it has not ended by then. [default: 600; 21600 with --economy]",
        ),
    ] = None,
    economy: Annotated[
        bool, typer.Option("--economy", help="Suggestions at about half the price, which may take hours.")
    ] = False,
    watch_it: WatchOption = False,
    prefix: PrefixOption = "",
    suffix: SuffixOption = "",
    max_length: MaxLengthOption = 0,
    find: FindOption = "",
    replace: ReplaceOption = "",
    forbid: ForbidOption = None,
    rules_json: RulesJsonOption = None,
    as_json: JsonOption = False,
) -> None:
    """Create a run: a preview of a few suggestions, a draft of all of them, or an apply that writes them.

    The same request again finds the run it made, until that one has failed; a preview without a key that has ended
    makes way for a new one. With the same --request-id it always finds the run that the first one led to: for scripts
    that repeat a command whose answer was lost.

    Rules are stated for a preview; a draft and an apply name the preview's scope id and rules hash. A preview that is
    watched ends with its suggestions, before and after.

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
    wanted = Run.Type.Value(run_type)

    async def run() -> Run | None:
        async with services.runs(project) as client:
            creation = Creation(
                client,
                services,
                lambda: client.create(
                    project,
                    playbook,
                    wanted,
                    scope_id=scope_id,
                    rules_hash=rules_hash,
                    idempotency_key=key,
                    sample_size=sample_size,
                    rules=rules,
                    deadline_seconds=deadline_seconds,
                    economy=economy,
                    request_id=request_id,
                ),
                lambda: client.list(project, playbook_id=playbook, run_type=wanted),
                lambda found: (
                    found.meta.economy == economy
                    and _is_asked_for(found, key=key, scope_id=scope_id, sample_size=sample_size, rules=rules)
                ),
                as_json=as_json,
            )
            if watch_it:
                return await creation.watched()
            await creation.answered()
            return None

    end_with(asyncio.run(run()), services, as_json=as_json)


def _is_asked_for(
    run: Run, *, key: str | None, scope_id: str, sample_size: int | None, rules: PlaybookRules | None
) -> bool:
    """Whether a run of the right playbook and type may be the one that this command asked for."""
    return (
        key in (None, run.idempotency_key)
        and scope_id in ("", run.scope_id)
        and sample_size in (None, run.meta.sample_size)
        and run.meta.rules == (rules or PlaybookRules())
    )
