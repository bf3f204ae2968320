"""The command to go on with, ready to be pasted: it goes to the same services as the one that says it."""

import shlex

from google.protobuf import json_format
from playbooks.executor.v1.executor_service_pb2 import EstimatePlaybookResponse
from playbooks.runs.v1.run_pb2 import Draft, PlaybookRules, Run

from runs_client.commands.options import RunType
from runs_client.endpoints import ServiceOptions


def after_run(run: Run, services: ServiceOptions) -> list[str]:
    """Return the lines that follow a run that SUCCEEDED."""
    if run.run_type == Run.PREVIEW_GENERATE and run.result.draft_generated:
        return [f"next: {_create(RunType.DRAFT_GENERATE, run, services)}"]
    if run.run_type == Run.DRAFT_GENERATE and run.result.draft_generated:
        draft = _line("draft", services, "--project", run.project_id, "--playbook", run.playbook_id)
        return [f"look: {draft}", f"next: {_create(RunType.APPLY, run, services)}"]
    if run.run_type == Run.APPLY and run.result.total_affected:
        return [f"look: {_line('items', services, run.id, '--project', run.project_id)}"]
    return []


def to_watch(run: Run, services: ServiceOptions) -> str:
    """Return the line that names the command to watch a run with."""
    return f"watch: {_line('watch', services, run.id, '--project', run.project_id)}"


def after_draft(draft: Draft, services: ServiceOptions) -> list[str]:
    """Return the line that follows a draft: apply the whole one, or complete that of a preview."""
    if not draft.counts.draft_generated:
        return []
    if draft.status == Draft.READY:
        return [f"next: {_create(RunType.APPLY, draft, services)}"]
    if draft.status == Draft.PARTIAL:
        return [f"next: {_create(RunType.DRAFT_GENERATE, draft, services)}"]
    return []


def after_estimate(
    estimate: EstimatePlaybookResponse,
    project: str,
    playbook: str,
    rules: PlaybookRules | None,
    services: ServiceOptions,
) -> list[str]:
    """Return the line that follows an estimate: a preview under the same rules, when one may run."""
    if not (estimate.total_affected and estimate.eligible):
        return []
    arguments = ["--project", project, "--playbook", playbook, "--type", RunType.PREVIEW_GENERATE]
    if rules is not None:
        arguments += ["--rules-json", json_format.MessageToJson(rules, indent=None, ensure_ascii=False)]
    return [f"next: {_line('create', services, *arguments, '--watch')}"]


def _create(run_type: RunType, known: Run | Draft, services: ServiceOptions) -> str:
    """Return the `create` of a run on the scope, and under the rules, of a run or draft."""
    arguments = {
        "--project": known.project_id,
        "--playbook": known.playbook_id,
        "--type": run_type,
        "--scope-id": known.scope_id,
        "--rules-hash": known.rules_hash,
    }
    return _line("create", services, *(word for pair in arguments.items() for word in pair), "--watch")


def _line(command: str, services: ServiceOptions, *arguments: str) -> str:
    return shlex.join(["playbook-runs", command, *arguments, *services.arguments()])
