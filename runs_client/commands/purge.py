"""`playbook-runs purge`."""

import asyncio
import sys
from typing import Annotated

import typer
from playbooks.runs.v1.runs_service_pb2 import PurgeProjectResponse

from runs_client.commands.options import JsonOption, ProjectOption
from runs_client.commands.services import with_service_options
from runs_client.endpoints import ServiceOptions
from runs_client.failures import CommandError
from runs_client.printing import say, say_json
from servicekit.telemetry.printable import printable

KINDS = ("runs", "changes", "executions", "drafts", "suggestions", "products", "projects", "usage_days")


@with_service_options
def purge(
    *,
    services: ServiceOptions,
    project: ProjectOption,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete all of a project in both services, for good, and say what that was.

    Runs that have not ended are cancelled first. If it is interrupted, run the same command again: it goes on. The
    plan, the limit and today's AI usage go only with a token that is OWNER of "*".

    Example: playbook-runs purge --project shop-1
    """
    if not yes:
        _confirm(project)

    async def run() -> PurgeProjectResponse:
        total = PurgeProjectResponse()
        async with services.runs("*") as client:
            async for purged in client.purge(project):
                total.complete = purged.complete
                for kind in KINDS:
                    setattr(total, kind, getattr(total, kind) + getattr(purged, kind))
        return total

    total = asyncio.run(run())
    if as_json:
        say_json(total)
    else:
        counts = [f"{kind.replace('_', ' ')} {getattr(total, kind):,}" for kind in KINDS if getattr(total, kind)]
        say(f"project {project}: {'deleted ' + ', '.join(counts) if counts else 'there was nothing'}")


def _confirm(project: str) -> None:
    if not sys.stdin.isatty():
        raise CommandError("this deletes all of the project, and nobody can be asked here: say --yes")
    question = f"Delete all of project {printable(project)} in both services, for good?"
    if not typer.confirm(question):
        raise CommandError("nothing was deleted")
