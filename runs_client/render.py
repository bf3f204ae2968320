"""Runs, drafts and products as people want to see them."""

from collections.abc import Iterable
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp
from playbooks.executor.v1.catalog_service_pb2 import Product
from playbooks.runs.v1.run_pb2 import Draft, Run
from rich.table import Table

from runs_client.printing import ValueTable, shown

NOUNS = {"missing_seo_title": "SEO title", "missing_seo_description": "SEO description"}
VERBS = {Run.PREVIEW_GENERATE: "preview", Run.DRAFT_GENERATE: "draft", Run.APPLY: "apply"}
COLOURS = {Run.SUCCEEDED: "green", Run.FAILED: "red", Run.STALE: "yellow", Run.CANCELLED: "yellow"}


def status_name(run: Run) -> str:
    """Return "SUCCEEDED" and so on."""
    return Run.Status.Name(run.status)


def seconds(run: Run) -> float | None:
    """Return how long a run that ended took from its creation."""
    if not run.HasField("finished_at"):
        return None
    return (run.finished_at.ToDatetime() - run.created_at.ToDatetime()).total_seconds()


def outcome(run: Run) -> str:
    """Return in a few words what came of a run that ended."""
    result = run.result
    if run.status != Run.SUCCEEDED:
        return f"{run.error_code}: {run.error_message}" if run.error_code else "nothing was changed"
    if run.run_type == Run.APPLY:
        return f"{result.updated} products updated, {result.skipped} skipped, {result.failed} failed"
    without = f", none for {result.no_suggestion_count}" if result.no_suggestion_count else ""
    return f"suggestions for {result.draft_generated} of {result.affected_total} affected products{without}"


def run_details(run: Run) -> Table:
    """Return everything a person wants to know about one run."""
    took = seconds(run)
    rows = {
        "run": run.id,
        "project": run.project_id,
        "playbook": run.playbook_id,
        "type": Run.Type.Name(run.run_type),
        "status": status_name(run),
        "progress": f"{run.progress.completed} of {run.progress.total}" if run.progress.total else "",
        "outcome": outcome(run) if run.HasField("finished_at") else "",
        "AI used": "yes" if run.ai_used else "no",
        "scope id": run.scope_id,
        "rules hash": run.rules_hash,
        "draft": run.draft_id,
        "key": run.idempotency_key,
        "attempt": str(run.attempt),
        "sequence": str(run.sequence),
        "created": f"{_time(run.created_at)} by {run.created_by_user_id}",
        "finished": f"{_time(run.finished_at)}, after {took:.1f} s" if took is not None else "",
        "retry of": run.retry_of,
    }
    table = ValueTable(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows.items():
        if value:
            table.add_row(name, shown(value, COLOURS.get(run.status, "") if name == "status" else ""))
    return table


def run_table(runs: Iterable[Run]) -> Table:
    """Return runs as a table, in the order given."""
    table = ValueTable(box=None, pad_edge=False)
    for heading in ("run", "playbook", "type", "status", "progress", "created", "took"):
        table.add_column(heading, no_wrap=heading == "run")
    for run in runs:
        took = seconds(run)
        table.add_row(
            run.id,
            run.playbook_id,
            Run.Type.Name(run.run_type),
            shown(status_name(run), COLOURS.get(run.status, "")),
            f"{run.progress.completed}/{run.progress.total}" if run.progress.total else "",
            _time(run.created_at),
            f"{took:.1f} s" if took is not None else "",
        )
    return table


def before_and_after(draft: Draft, products: dict[str, Product]) -> Table:
    """Return a draft's suggestions beside what the products have now; `products` by id."""
    table = ValueTable(title=f"{NOUNS[draft.playbook_id]}: before and after", title_justify="left", show_lines=True)
    table.add_column("product")
    table.add_column("before")
    table.add_column("after", style="green", overflow="fold")
    for item in draft.items:
        product = products.get(item.product_id, Product())
        before = product.seo_title if item.field == "seo_title" else product.seo_description
        after = shown(item.final_suggestion)
        if item.rule_warnings:
            after.append("\n").append_text(shown(", ".join(item.rule_warnings), "yellow"))
        table.add_row(product.title or item.product_id, shown(before or "(none)", "dim"), after)
    return table


def _time(timestamp: Timestamp) -> str:
    moment: datetime = timestamp.ToDatetime()
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
