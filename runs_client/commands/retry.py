"""`playbook-runs retry`."""

import asyncio
from typing import Annotated

import typer
from playbooks.runs.v1.run_pb2 import Run

from runs_client.commands.creating import Creation
from runs_client.commands.options import JsonOption, ProjectOption, RunArgument, WatchOption, named_or_left_out
from runs_client.commands.outcome import end_with
from runs_client.commands.services import with_service_options
from runs_client.endpoints import ServiceOptions


@with_service_options
def retry(
    *,
    services: ServiceOptions,
    run_id: RunArgument,
    project: ProjectOption,
    key: Annotated[
        str | None,
        typer.Option("--key", help="Idempotency key. [default: that of the run to repeat]", callback=named_or_left_out),
    ] = None,
    watch_it: WatchOption = False,
    as_json: JsonOption = False,
) -> None:
    """Ask for the same again: for runs that FAILED, are STALE or were CANCELLED.

    A run has one retry at most: the command again finds it, in any state and under any key. For another one,
    retry the newest.

    Example: playbook-runs retry 0199d5c2-7c55-7bd4-b9c1-5f1c4a1f6f0e --project shop-1 --watch
    """

    async def run() -> Run | None:
        async with services.runs(project) as client:
            creation = Creation(
                client,
                services,
                lambda: client.retry(project, run_id, idempotency_key=key),
                lambda: client.list(project),
                lambda found: found.retry_of == run_id.lower(),
                as_json=as_json,
            )
            if watch_it:
                return await creation.watched()
            await creation.answered()
            return None

    end_with(asyncio.run(run()), services, as_json=as_json)
