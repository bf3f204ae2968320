"""Runs, requests and events as the tests of runs_service need them."""

from datetime import UTC, datetime
from typing import Any

from playbooks.executor.v1.job_pb2 import RunEvent
from playbooks.runs.v1.run_pb2 import PlaybookRules, Run, RunProgress
from playbooks.runs.v1.runs_service_pb2 import CreateRunRequest

from runs_service import messages
from runs_service.messages import NewRun
from servicekit.ids import uuid7

NOW = datetime(2026, 5, 4, 12, 30, 15, 123456, tzinfo=UTC)
TERMINAL = (Run.SUCCEEDED, Run.FAILED, Run.STALE, Run.CANCELLED)


def request(**fields: Any) -> CreateRunRequest:
    """Return a request for a preview, unless `fields` say otherwise."""
    values = {"project_id": "p", "playbook_id": "missing_seo_title", "run_type": Run.PREVIEW_GENERATE} | fields
    return CreateRunRequest(**values)


def large_rules() -> PlaybookRules:
    """Return the largest rules that a request may have, nearly: 90 kB."""
    wide = "\N{GRINNING FACE}"
    rules = PlaybookRules(forbidden_phrases=[f"{n:04}{wide * 196}" for n in range(100)], prefix=wide * 500)
    rules.find_replace.find = rules.find_replace.replace = wide * 1_000
    return rules


def new_run(now: datetime = NOW, **fields: Any) -> NewRun:
    return messages.new_run(request(**fields), run_id=uuid7(), user_id="u", request_id="r", now=now)


def event(run_id: str, number: int, status: Run.Status.ValueType, **fields: Any) -> RunEvent:
    """Return an event of a first attempt in project p, unless `fields` say otherwise. `completed` is its progress."""
    completed = fields.pop("completed", 0)
    values = {"attempt": 0 if status == Run.QUEUED else 1, "project_id": "p"} | fields
    return RunEvent(
        run_id=run_id, number=number, status=status, progress=RunProgress(completed=completed, total=100), **values
    )
