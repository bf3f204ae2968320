"""The `next:` line: where it stands, and that it goes to the same services as the command before it."""

import shlex
from pathlib import Path

import pytest
from google.protobuf import json_format
from playbooks.executor.v1.executor_service_pb2 import EstimatePlaybookResponse
from playbooks.runs.v1.run_pb2 import Draft, DraftCounts, PlaybookRules, Run, RunResult

from runs_client.commands import next_step
from runs_client.endpoints import ServiceOptions

ANYWHERE = ServiceOptions()
SOMEWHERE = ServiceOptions(
    target="a:1", executor_target="b:2", token="secret", data_dir=Path("my stack"), ca_file=Path("ca.pem")
)


def ended(run_type: Run.Type.ValueType, **result: int) -> Run:
    return Run(
        id="r1",
        project_id="it's a shop",
        playbook_id="missing_seo_title",
        run_type=run_type,
        scope_id="s1",
        rules_hash="h1",
        result=RunResult(**result),
    )


def words(line: str) -> dict[str, str]:
    """The options of a line's command, by name."""
    label, _, command = line.partition(": ")
    program, name, *rest = shlex.split(command)
    assert program == "playbook-runs"
    options = [word for word in rest if word != "--watch"]
    positional = [options.pop(0)] if not options[0].startswith("--") else []
    return {"label": label, "command": name, **dict(zip(options[::2], options[1::2], strict=True))} | (
        {"id": positional[0]} if positional else {}
    )


NAMED = {"--project": "it's a shop", "--playbook": "missing_seo_title", "--scope-id": "s1", "--rules-hash": "h1"}


def test_after_a_preview_comes_a_draft() -> None:
    (line,) = next_step.after_run(ended(Run.PREVIEW_GENERATE, affected_total=9, draft_generated=3), ANYWHERE)
    assert words(line) == {"label": "next", "command": "create", "--type": "DRAFT_GENERATE"} | NAMED
    assert " --watch" in line


def test_after_a_draft_comes_a_look_at_it_and_an_apply() -> None:
    look, line = next_step.after_run(ended(Run.DRAFT_GENERATE, affected_total=9, draft_generated=9), ANYWHERE)
    assert words(look)["command"] == "draft"
    assert words(line) == {"label": "next", "command": "create", "--type": "APPLY"} | NAMED


def test_after_an_apply_come_its_items() -> None:
    (line,) = next_step.after_run(ended(Run.APPLY, total_affected=9, updated=8, skipped=1), ANYWHERE)
    assert words(line) == {"label": "look", "command": "items", "id": "r1", "--project": "it's a shop"}


@pytest.mark.parametrize("run_type", [Run.PREVIEW_GENERATE, Run.DRAFT_GENERATE, Run.APPLY])
def test_nothing_comes_after_no_products(run_type: Run.Type.ValueType) -> None:
    assert next_step.after_run(ended(run_type), ANYWHERE) == []


@pytest.mark.parametrize(
    ("status", "run_type"),
    [(Draft.PARTIAL, "DRAFT_GENERATE"), (Draft.READY, "APPLY"), (Draft.EXPIRED, None), (Draft.FAILED, None)],
)
def test_after_a_look_at_a_draft_it_is_completed_or_applied(
    status: Draft.Status.ValueType, run_type: str | None
) -> None:
    draft = Draft(project_id="p", playbook_id="missing_seo_title", status=status, counts=DraftCounts(draft_generated=1))
    lines = next_step.after_draft(draft, ANYWHERE)
    assert [words(line)["--type"] for line in lines] == ([run_type] if run_type else [])
    draft.counts.draft_generated = 0
    assert next_step.after_draft(draft, ANYWHERE) == []


def test_after_an_estimate_comes_a_preview_under_the_same_rules() -> None:
    rules = PlaybookRules(enabled=True, prefix="it's", max_length=60)
    estimate = EstimatePlaybookResponse(total_affected=2, eligible=True)
    (line,) = next_step.after_estimate(estimate, "p", "missing_seo_title", rules, ANYWHERE)
    assert words(line)["--type"] == "PREVIEW_GENERATE"
    assert json_format.Parse(words(line)["--rules-json"], PlaybookRules()) == rules
    for none in (EstimatePlaybookResponse(eligible=True), EstimatePlaybookResponse(total_affected=2)):
        assert next_step.after_estimate(none, "p", "missing_seo_title", None, ANYWHERE) == []


def test_it_goes_to_the_services_that_were_asked_and_shows_no_token() -> None:
    asked = {"--data-dir": "my stack", "--target": "a:1", "--executor-target": "b:2", "--ca-file": "ca.pem"}
    lines = [
        *next_step.after_run(ended(Run.PREVIEW_GENERATE, draft_generated=1), SOMEWHERE),
        *next_step.after_run(ended(Run.DRAFT_GENERATE, draft_generated=1), SOMEWHERE),
        *next_step.after_run(ended(Run.APPLY, total_affected=1), SOMEWHERE),
        *next_step.after_estimate(
            EstimatePlaybookResponse(total_affected=2, eligible=True), "p", "missing_seo_title", None, SOMEWHERE
        ),
    ]
    assert len(lines) == 5
    for line in lines:
        assert asked.items() <= words(line).items()
        assert "secret" not in line
