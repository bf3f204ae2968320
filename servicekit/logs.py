"""Log lines: JSON for machines, colours for a console; each with the id of the request it belongs to."""

import logging
import sys

import structlog


def configure(*, service: str, format: str, level: str) -> None:
    """Send every log line of this process to standard error, as "json" or "console", from `level` on."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
        if format == "console"
        else [
            structlog.processors.format_exc_info,
            structlog.processors.EventRenamer("message"),
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=level, force=True)
    # Chatty at INFO about their own business, not about runs.
    for name in ("alembic", "httpx", "httpx2", "openai", "kombu", "amqp"):
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelName(level)))
    structlog.contextvars.bind_contextvars(service=service)


def bind(**values: str) -> None:
    """Add `values` to every line that is logged from here on in this call or task."""
    structlog.contextvars.bind_contextvars(**values)


def bound(name: str) -> str:
    """Return what `name` is bound to in this call or task, or ""."""
    value = structlog.contextvars.get_contextvars().get(name, "")
    return str(value)
