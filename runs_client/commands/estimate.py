"""`playbook-runs estimate`: what a run would do, without doing it."""

import asyncio

from playbooks.executor.v1.executor_service_pb2 import EstimatePlaybookResponse

from runs_client.commands import next_step
from runs_client.commands.options import JsonOption, PlaybookOption, ProjectOption
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
from runs_client.printing import console, say, say_json
from runs_client.render import estimate_details


@with_service_options
def estimate(
    *,
    services: ServiceOptions,
    project: ProjectOption,
    playbook: PlaybookOption,
    prefix: PrefixOption = "",
    suffix: SuffixOption = "",
    max_length: MaxLengthOption = 0,
    find: FindOption = "",
    replace: ReplaceOption = "",
    forbid: ForbidOption = None,
    rules_json: RulesJsonOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how many products a draft would be about, and whether it may run today. Calls no AI and changes nothing.

    Example: playbook-runs estimate --project shop-1 --playbook missing_seo_title
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

    async def read() -> EstimatePlaybookResponse:
        async with services.executor(project) as executor:
            return await executor.estimate(project, playbook, rules)

    found = asyncio.run(read())
    if as_json:
        say_json(found)
        return
    console().print(estimate_details(found))
    for line in next_step.after_estimate(found, project, playbook, rules, services):
        say(line)
