"""Between protos and the domain: jobs, events, the catalog, drafts. Rules translate themselves (playbooks/rules.py)."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal
from uuid import UUID

from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from playbooks.executor.v1.catalog_service_pb2 import Product, Project
from playbooks.executor.v1.executor_service_pb2 import AiDailyLimit
from playbooks.executor.v1.job_pb2 import RunEvent, RunJob
from playbooks.runs.v1.run_pb2 import AiUsage, Draft, DraftItem, PlaybookRules, Run, RunItem, RunProgress, RunResult

from executor_service.domain import catalog as domain_catalog
from executor_service.domain import draft as domain_draft
from executor_service.domain.execution import MAX_ERROR_MESSAGE, Job, RunType, State, Status
from executor_service.playbooks.playbook import UnknownPlaybookError, playbook
from executor_service.playbooks.quota import Allowance
from executor_service.playbooks.rules import Rules

DEFAULT_SAMPLE_SIZE = 3  # products
RUN_TYPES: Mapping[int, RunType] = {Run.Type.Value(kind.value): kind for kind in RunType}
STATUSES: Mapping[Status, Run.Status.ValueType] = {status: Run.Status.Value(status.value) for status in Status}


class UnreadableJob(ValueError):
    """A job that this executor cannot execute: it is damaged, or of another version."""


# Jobs and events


def job(message: RunJob) -> Job:
    """Read a job that came in, and keeps the rules in its proto. Raises UnreadableJob."""
    if message.meta.HasField("rules") and "\0" in _texts(message.meta.rules):
        raise UnreadableJob("the rules have a NUL character, which PostgreSQL cannot store")
    return _read(message, message.SerializeToString())


def _read(message: RunJob, body: bytes) -> Job:
    if message.run_type not in RUN_TYPES:
        raise UnreadableJob(f"run type {message.run_type} is not known here")
    try:
        run_id = UUID(message.run_id)
        target = playbook(message.playbook_id)
        created_at = _time(message, "created_at") or datetime.now(UTC)
        deadline = _time(message, "deadline")
    except (ValueError, UnknownPlaybookError) as error:
        raise UnreadableJob(str(error)) from error
    meta = message.meta
    return Job(
        run_id=run_id,
        project_id=message.project_id,
        playbook=target,
        run_type=RUN_TYPES[message.run_type],
        scope_id=message.scope_id,
        rules_hash=message.rules_hash,
        sample_size=meta.sample_size if meta.HasField("sample_size") else DEFAULT_SAMPLE_SIZE,
        rules=Rules.from_message(meta.rules) if meta.HasField("rules") else None,
        request_id=message.request_id,
        created_at=created_at,
        deadline=deadline,
        body=body,
        economy=meta.economy,
        traceparent=message.traceparent,
    )


def job_from(body: bytes) -> Job:
    """Read a job as the inbox keeps it; it was checked when it came in. Raises UnreadableJob."""
    try:
        return _read(RunJob.FromString(body), body)
    except DecodeError as error:
        raise UnreadableJob(str(error)) from error


def event(state: State) -> RunEvent:
    """Return the event that runs_service gets of an execution."""
    return RunEvent(
        run_id=str(state.run_id),
        project_id=state.project_id,
        number=state.number,
        status=STATUSES[state.status],
        attempt=state.attempt,
        progress=RunProgress(completed=state.completed, total=state.total),
        ai_used=state.ai_used if state.status.is_terminal else False,
        draft_id=str(state.draft_id or ""),
        scope_id=state.scope_id,
        rules_hash=state.rules_hash,
        result=None if state.result is None else RunResult(**state.result),
        error_code=state.error_code,
        error_message=state.error_message[:MAX_ERROR_MESSAGE],  # earlier versions stored longer ones
        started_at=_timestamp(state.started_at),
        finished_at=_timestamp(state.finished_at),
        ai_usage=None if state.ai_usage is None else AiUsage(**state.ai_usage._asdict()),
        traceparent=state.traceparent,
    )


# Catalog


def project(record: domain_catalog.Project, allowance: Allowance) -> Project:
    """Return a project with its AI usage."""
    return Project(
        project_id=record.id,
        plan=Project.Plan.Value(record.plan.value),
        ai_daily_limit=record.ai_daily_limit,
        ai_usage=ai_daily_limit(allowance),
    )


def ai_daily_limit(allowance: Allowance) -> AiDailyLimit:
    """Return an allowance as clients read it."""
    return AiDailyLimit(
        limit=allowance.limit,
        used=allowance.used,
        remaining=allowance.remaining,
        resets_at=_timestamp(allowance.resets_at),
    )


def product(record: domain_catalog.Product) -> Product:
    """Return a product as clients read it."""
    return Product(
        id=record.id,
        external_id=record.external_id,
        title=record.title,
        description=record.description,
        seo_title=record.seo_title,
        seo_description=record.seo_description,
    )


def product_record(message: Product) -> domain_catalog.Product:
    """Read a product."""
    return domain_catalog.Product(
        id=message.id,
        external_id=message.external_id,
        title=message.title,
        description=message.description,
        seo_title=message.seo_title,
        seo_description=message.seo_description,
    )


# Drafts


def draft(page: domain_draft.DraftPage, now: datetime) -> Draft:
    """Return a draft with a page of its items, as it is at `now`."""
    record = page.draft
    field = playbook(record.key.playbook_id).field
    message = Draft(
        id=str(record.id),
        project_id=record.key.project_id,
        playbook_id=record.key.playbook_id,
        scope_id=record.key.scope_id,
        rules_hash=record.key.rules_hash,
        status=Draft.Status.Value(record.status_at(now).value),
        items=[
            DraftItem(
                product_id=item.product_id,
                field=field,
                raw_suggestion=item.raw_suggestion,
                final_suggestion=item.final_suggestion,
                rule_warnings=item.rule_warnings,
                no_suggestion_reason=item.no_suggestion_reason,
            )
            for item in page.items
        ],
        expires_at=_timestamp(record.expires_at),
        created_at=_timestamp(record.created_at),
        updated_at=_timestamp(record.updated_at),
        model=record.model,
    )
    message.counts.affected_total = record.affected_total
    message.counts.draft_generated = record.draft_generated
    message.counts.no_suggestion_count = record.no_suggestion_count
    return message


def run_item(record: domain_draft.RunItem) -> RunItem:
    """Return what an APPLY did with a product."""
    return RunItem(
        product_id=record.product_id, status=RunItem.Status.Value(record.status.value), message=record.message
    )


def _texts(rules: PlaybookRules) -> str:
    replacement = rules.find_replace
    return "".join(
        (replacement.find, replacement.replace, rules.prefix, rules.suffix, rules.mode, *rules.forbidden_phrases)
    )


def _time(message: RunJob, field: Literal["created_at", "deadline"]) -> datetime | None:
    """Read a time. Raises ValueError when it is beyond the range of datetime."""
    timestamp: Timestamp = getattr(message, field)
    return timestamp.ToDatetime(tzinfo=UTC) if message.HasField(field) else None


def _timestamp(time: datetime | None) -> Timestamp | None:
    if time is None:
        return None
    timestamp = Timestamp()
    timestamp.FromDatetime(time)
    return timestamp
