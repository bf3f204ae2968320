"""How a command ends that has watched a run: what came of it, its suggestions, and what to do next."""

import asyncio

import typer
from playbooks.runs.v1.run_pb2 import Draft, Run

from runs_client.commands import next_step
from runs_client.endpoints import ServiceOptions
from runs_client.errors import ServiceCallError
from runs_client.failures import CommandError, explain
from runs_client.printing import console, say, warn
from runs_client.render import before_and_after, outcome, written_by
from runs_client.suggestions import products_of
from runs_client.views import outcome_line

MAX_SAMPLE = 50  # products of a preview


def end_with(run: Run | None, services: ServiceOptions, *, as_json: bool) -> None:
    """Say what came of a watched run; exit code 1 unless it succeeded."""
    if run is None:
        return
    if not as_json:
        console().print(outcome_line(run, outcome(run)), soft_wrap=True)
        if run.status == Run.SUCCEEDED:
            if run.run_type == Run.PREVIEW_GENERATE and (run.result.draft_generated or run.result.no_suggestion_count):
                _show_suggestions(run, services)
            for line in next_step.after_run(run, services):
                say(line)
    if run.status != Run.SUCCEEDED:
        raise typer.Exit(1)


def _show_suggestions(preview: Run, services: ServiceOptions) -> None:
    """Print a preview's suggestions. Where executor_service cannot be asked, say so: the run has succeeded anyway."""
    try:
        asyncio.run(_print_suggestions(preview, services))
    except (ServiceCallError, CommandError) as error:
        why = explain(error) if isinstance(error, ServiceCallError) else str(error)
        warn(f"the suggestions cannot be shown: {why}")


async def _print_suggestions(preview: Run, services: ServiceOptions) -> None:
    async with services.executor(preview.project_id) as executor:
        draft: Draft = await executor.get_draft(preview.project_id, preview.draft_id)
        products = await products_of(executor, draft, limit=MAX_SAMPLE)
    console().print(before_and_after(draft, products, limit=MAX_SAMPLE))
    say(written_by([draft.model]))
