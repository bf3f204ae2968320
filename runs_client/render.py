"""Runs, drafts and products in words and tables."""

from collections.abc import Iterable, Mapping
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp
from playbooks.executor.v1.catalog_service_pb2 import Product
from playbooks.executor.v1.executor_service_pb2 import EstimatePlaybookResponse
from playbooks.runs.v1.run_pb2 import AiUsage, Draft, Run, RunItem
from playbooks.runs.v1.runs_service_pb2 import GetUsageResponse
from rich.table import Table
from rich.text import Text

from runs_client.failures import in_commands
from runs_client.printing import ValueTable, shown
from servicekit.blanks import is_blank

NOUNS = {"missing_seo_title": "SEO title", "missing_seo_description": "SEO description"}
VERBS = {Run.PREVIEW_GENERATE: "preview", Run.DRAFT_GENERATE: "draft", Run.APPLY: "apply"}
OFFLINE_MODEL = "offline-template"
COLOURS = {Run.SUCCEEDED: "green", Run.FAILED: "red", Run.STALE: "yellow", Run.CANCELLED: "yellow"}


def status_name(run: Run) -> str:
    """Return "SUCCEEDED" and so on."""
    return Run.Status.Name(run.status)


def seconds(run: Run) -> float | None:
    """Return how long a run that ended took from its creation."""
    if not run.HasField("finished_at"):
        return None
    return (run.finished_at.ToDatetime() - run.created_at.ToDatetime()).total_seconds()


def duration(took: float) -> str:
    """Return a time in seconds, below one second in milliseconds."""
    return f"{took:.1f} s" if took >= 1 else f"{took * 1000:.0f} ms"


def written_by(models: Iterable[str]) -> str:
    """Return who wrote suggestions, "" when no model is known."""
    named = sorted(filter(None, models))
    if OFFLINE_MODEL in named:
        return "by the offline template writer; set OPENAI_API_KEY to have a model write them"
    return f"by {', '.join(named)}" if named else ""


def outcome(run: Run) -> str:
    """Return in a few words what came of a run that ended."""
    result = run.result
    if run.status != Run.SUCCEEDED:
        return f"{run.error_code}: {in_commands(run.error_message)}" if run.error_code else "nothing was changed"
    if run.run_type == Run.APPLY:
        return f"{result.updated} products updated, {result.skipped} skipped, {result.failed} failed"
    without = f", none for {result.no_suggestion_count}" if result.no_suggestion_count else ""
    return f"suggestions for {result.draft_generated} of {result.affected_total} affected products{without}"


def usage_words(usage: AiUsage) -> str:
    """Return in a line what one or more runs have asked of the AI provider, with the tokens that it counted."""
    cached = f", {usage.cached_input_tokens:,} of them cached" if usage.cached_input_tokens else ""
    tokens = f"; {usage.input_tokens:,} tokens read{cached}, {usage.output_tokens:,} written"
    return (
        f"{usage.requests:,} requests, {usage.suggestions:,} suggestions, {usage.reused:,} reused"
        f"{tokens if usage.input_tokens or usage.output_tokens else ''}{f' ({usage.model})' if usage.model else ''}"
    )


def run_details(run: Run) -> Table:
    """Return everything a person wants to know about one run."""
    took = seconds(run)
    rows: dict[str, str | Text] = {
        "run": run.id,
        "project": run.project_id,
        "playbook": run.playbook_id,
        "type": Run.Type.Name(run.run_type),
        "status": shown(status_name(run), COLOURS.get(run.status, "")),
        "progress": f"{run.progress.completed} of {run.progress.total}" if run.progress.total else "",
        "outcome": outcome(run) if run.HasField("finished_at") else "",
        "AI used": "yes" if run.ai_used else "no",
        "economy": "yes" if run.meta.economy else "",
        "AI cost": usage_words(run.ai_usage) if run.HasField("ai_usage") else "",
        "scope id": run.scope_id,
        "rules hash": run.rules_hash,
        "draft": run.draft_id,
        "key": run.idempotency_key,
        "attempt": str(run.attempt),
        "sequence": str(run.sequence),
        "created": f"{_time(run.created_at)} by {run.created_by_user_id}",
        "finished": f"{_time(run.finished_at)}, after {duration(took)}" if took is not None else "",
        "retry of": run.retry_of,
    }
    return _details(rows)


def run_table(runs: Iterable[Run]) -> Table:
    """Return runs as a table, in the order given."""
    table = ValueTable(box=None, pad_edge=False)
    for heading in ("run", "playbook", "type", "status", "progress", "created", "took", "why"):
        table.add_column(heading, no_wrap=heading == "run", overflow="fold")
    for run in runs:
        took = seconds(run)
        table.add_row(
            run.id,
            run.playbook_id,
            Run.Type.Name(run.run_type),
            shown(status_name(run), COLOURS.get(run.status, "")),
            f"{run.progress.completed}/{run.progress.total}" if run.progress.total else "",
            _time(run.created_at),
            duration(took) if took is not None else "",
            outcome(run) if run.error_code else "",
        )
    return table


def before_and_after(draft: Draft, products: Mapping[str, Product], *, limit: int | None = None) -> Table:
    """Return a draft's suggestions, the first `limit`, beside what the products have now; `products` by id."""
    table = ValueTable(title=f"{NOUNS[draft.playbook_id]}: before and after", title_justify="left", show_lines=True)
    table.add_column("product")
    table.add_column("before")
    table.add_column("after", style="green", overflow="fold")
    for item in draft.items[:limit]:
        product = products.get(item.product_id, Product())
        before = product.seo_title if item.field == "seo_title" else product.seo_description
        after = shown(item.final_suggestion)
        if is_blank(item.final_suggestion):
            why = f": {item.no_suggestion_reason}" if item.no_suggestion_reason else ""
            after = shown(f"(no suggestion{why})", "yellow")
        if item.rule_warnings:
            after.append("\n").append_text(shown(", ".join(item.rule_warnings), "yellow"))
        table.add_row(product.title or item.product_id, shown(before or "(none)", "dim"), after)
    return table


def draft_heading(draft: Draft) -> Table:
    """Return what a person wants to know about a draft before its items."""
    counts = draft.counts
    without = f", none for {counts.no_suggestion_count}" if counts.no_suggestion_count else ""
    expired = draft.status == Draft.EXPIRED
    return _details(
        {
            "draft": draft.id,
            "playbook": draft.playbook_id,
            "status": Draft.Status.Name(draft.status),
            "suggestions": f"for {counts.draft_generated} of {counts.affected_total} affected products{without}",
            "written": written_by([draft.model]),
            "scope id": draft.scope_id,
            "rules hash": draft.rules_hash,
            "expired" if expired else "expires": _time(draft.expires_at),
        }
    )


def item_table(items: Iterable[RunItem]) -> Table:
    """Return what an apply did, product by product."""
    table = ValueTable(box=None, pad_edge=False)
    for heading in ("product", "status", "message"):
        table.add_column(heading, overflow="fold")
    for item in items:
        colour = {RunItem.UPDATED: "green", RunItem.FAILED: "red"}.get(item.status, "yellow")
        table.add_row(item.product_id, shown(RunItem.Status.Name(item.status), colour), item.message)
    return table


def estimate_details(estimate: EstimatePlaybookResponse) -> Table:
    """Return what a run would do, and whether it may."""
    daily = estimate.ai_daily_limit
    used = (
        f"{daily.used} used of {daily.limit}, {daily.remaining} left"
        if daily.HasField("limit")
        else (f"{daily.used} used, unlimited")
    )
    return _details(
        {
            "affected": f"{estimate.total_affected} products",
            "may run": "yes" if estimate.eligible else f"no: {in_commands('; '.join(estimate.reasons))}",
            "AI cost": _expected(estimate),
            "AI today": f"{used}; resets at {_time(daily.resets_at)}",
            "scope id": estimate.scope_id,
            "rules hash": estimate.rules_hash,
        }
    )


def _expected(estimate: EstimatePlaybookResponse) -> str:
    if not estimate.expected_requests:
        return ""
    return (
        f"about {estimate.expected_requests:,} requests, {estimate.expected_input_tokens:,} tokens read and "
        f"{estimate.expected_output_tokens:,} written, for a draft"
    )


def usage_table(usage: GetUsageResponse) -> Table:
    """Return what the runs of each day and type were and cost."""
    table = ValueTable(box=None, pad_edge=False)
    for heading in ("day", "type"):
        table.add_column(heading, no_wrap=True)
    for heading in ("runs", "with AI", "requests", "suggestions", "reused", "tokens in", "cached", "tokens out"):
        table.add_column(heading, justify="right")
    for day in usage.days:
        cost = day.ai_usage
        counts = (
            *(day.runs, day.ai_runs, cost.requests, cost.suggestions, cost.reused),
            *(cost.input_tokens, cost.cached_input_tokens, cost.output_tokens),
        )
        table.add_row(day.day, Run.Type.Name(day.run_type), *(f"{count:,}" for count in counts))
    return table


def usage_details(usage: GetUsageResponse) -> Table:
    """Return what the runs of all days together were and cost."""
    total = usage.summary
    runs = f"{total.total_runs:,}, {total.ai_runs:,} of them with AI"
    return _details(
        {
            "days": f"{getattr(usage, 'from')} to {usage.to}, UTC",
            "runs": runs,
            "by type": f"{total.previews:,} previews, {total.drafts:,} drafts, {total.applies:,} applies",
            "AI cost": usage_words(total.ai_usage),
        }
    )


def _details(rows: Mapping[str, str | Text]) -> Table:
    """Return named values below each other; empty ones are left out."""
    table = ValueTable(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows.items():
        if value:
            table.add_row(name, value)
    return table


def _time(timestamp: Timestamp) -> str:
    moment: datetime = timestamp.ToDatetime()
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
