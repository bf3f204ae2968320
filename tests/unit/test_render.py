"""Runs and errors in the words of somebody at a terminal."""

import io
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from playbooks.executor.v1 import catalog_service_pb2, executor_service_pb2
from playbooks.executor.v1.catalog_service_pb2 import Product
from playbooks.runs.v1 import runs_service_pb2
from playbooks.runs.v1.run_pb2 import AiUsage, Draft, DraftItem, Run
from rich.console import Console, RenderableType

from runs_client.errors import ServiceCallError
from runs_client.failures import explain, in_commands
from runs_client.render import before_and_after, duration, outcome, run_details, run_table, written_by

FOR_SERVICES = {"DeleteProject", "ExecuteRun", "ReconcileRuns", "CancelRuns"}  # no person calls them
WITHOUT_COMMAND = {"GetProject", "DeleteProducts"}


def printed(table: RenderableType, width: int = 300) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(table)
    return out.getvalue()


def ended(seconds: float, **fields: object) -> Run:
    run = Run(id="r", playbook_id="missing_seo_title", run_type=Run.APPLY, **fields)  # type: ignore[arg-type]
    start = datetime(2026, 1, 1, tzinfo=UTC)
    run.created_at.FromDatetime(start)
    run.finished_at.FromDatetime(start + timedelta(seconds=seconds))
    return run


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "0 ms"), (0.0471, "47 ms"), (0.999, "999 ms"), (1.0, "1.0 s"), (61.25, "61.2 s")]
)
def test_what_took_less_than_a_second_is_shown_in_milliseconds(seconds: float, text: str) -> None:
    assert duration(seconds) == text
    assert f" {text}" in printed(run_table([ended(seconds)]))
    assert f"after {text}" in printed(run_details(ended(seconds)))


def test_a_list_shows_why_a_run_failed() -> None:
    failed = ended(1, status=Run.FAILED, error_code="AI_RATE_LIMITED", error_message="The provider says: slow down.")
    stale = ended(1, status=Run.STALE, error_code="PLAYBOOK_SCOPE_INVALID", error_message="Products have changed.")
    succeeded = ended(1, status=Run.SUCCEEDED)
    lines = printed(run_table([failed, stale, succeeded])).splitlines()
    assert lines[1].rstrip().endswith("AI_RATE_LIMITED: The provider says: slow down.")
    assert lines[2].rstrip().endswith("PLAYBOOK_SCOPE_INVALID: Products have changed.")
    assert lines[3].rstrip().endswith("1.0 s")


def test_messages_name_commands_for_rpcs() -> None:
    message = "There is no project p. Create it with CatalogService.PutProject and put its products."
    assert in_commands(message) == "There is no project p. Create it with `playbook-runs import` and put its products."
    failed = ended(1, status=Run.FAILED, error_code="PROJECT_NOT_FOUND", error_message=message)
    assert "PutProject" not in outcome(failed)
    error = ServiceCallError(grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND", "no such run; ListRuns shows those it has")
    assert explain(error) == "no such run; `playbook-runs list` shows those it has"
    assert in_commands("a GetRunner and TheGetRun stay") == "a GetRunner and TheGetRun stay"


@pytest.mark.parametrize(
    "rpc",
    [
        method.name
        for services in (runs_service_pb2, executor_service_pb2, catalog_service_pb2)
        for service in services.DESCRIPTOR.services_by_name.values()
        for method in service.methods
        if method.name not in FOR_SERVICES | WITHOUT_COMMAND
    ],
)
def test_every_rpc_has_a_command(rpc: str) -> None:
    assert in_commands(f"call {rpc} now").startswith("call `playbook-runs ")


def test_a_draft_shows_what_has_no_suggestion_and_as_many_items_as_asked_for() -> None:
    draft = Draft(
        playbook_id="missing_seo_title",
        items=[
            DraftItem(product_id="a", field="seo_title", final_suggestion="New A", rule_warnings=["trimmed"]),
            DraftItem(product_id="b", field="seo_title", no_suggestion_reason="the content filter refused it"),
            DraftItem(product_id="c", field="seo_title", final_suggestion="New C"),
        ],
    )
    shown = printed(before_and_after(draft, {"a": Product(id="a", title="A", seo_title="Old A")}, limit=2))
    for words in ("Old A", "New A", "trimmed", "(none)", "(no suggestion: the content filter refused it)"):
        assert words in shown
    assert "New C" not in shown


def test_the_writer_is_named() -> None:
    assert "offline template writer" in written_by(["offline-template"])
    assert written_by(["gpt-x", ""]) == "by gpt-x"
    assert written_by([""]) == ""


def test_a_run_shows_what_it_cost() -> None:
    usage = AiUsage(requests=1_200, suggestions=34, reused=5, input_tokens=9_000, output_tokens=800, model="gpt-6-luna")
    shown = printed(run_details(ended(1, status=Run.SUCCEEDED, ai_usage=usage)))
    assert "1,200 requests, 34 suggestions, 5 reused; 9,000 tokens read, 800 written (gpt-6-luna)" in shown
    usage.cached_input_tokens = 4_096
    assert "9,000 tokens read, 4,096 of them cached, 800 written" in printed(run_details(ended(1, ai_usage=usage)))
    offline = AiUsage(suggestions=3, model="offline-template")
    assert "0 requests, 3 suggestions, 0 reused (offline-template)" in printed(run_details(ended(1, ai_usage=offline)))
    assert "requests" not in printed(run_details(ended(1)))
