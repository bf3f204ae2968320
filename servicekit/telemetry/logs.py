"""Log lines: JSON for machines, plain lines for a console, each with the id of its request.

Every run logs several lines, so a record is formatted in one step.
"""

import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Final, TextIO

from servicekit.telemetry.printable import CONTINUED, printable, printable_json, printable_lines

logger = logging.getLogger(__name__)

_bound: ContextVar[Mapping[str, str]] = ContextVar("bound", default={})  # noqa: B039  # never mutated, only replaced
_encode = json.JSONEncoder(ensure_ascii=False, default=str).encode  # json.dumps would create an encoder for each line
# The attributes of every record; the others come from `extra`.
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class _Formatter(logging.Formatter):
    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def fields(self, record: logging.LogRecord) -> dict[str, object]:
        """Return the fields of a line besides its message, level and time."""
        return {
            "logger": record.name,
            "service": self._service,
            **_bound.get(),
            **{name: value for name, value in vars(record).items() if name not in _STANDARD},
        }

    def exception(self, record: logging.LogRecord) -> str:
        """Return the traceback of a record, or ""."""
        return self.formatException(record.exc_info) if record.exc_info and record.exc_info[0] else ""


class _Json(_Formatter):
    _second = 0
    _second_as_text = ""

    def format(self, record: logging.LogRecord) -> str:
        second = int(record.created)
        if second != self._second:
            self._second, self._second_as_text = second, datetime.fromtimestamp(second, UTC).isoformat()[:19]
        line = {
            "message": record.getMessage(),
            "level": record.levelname.lower(),
            "timestamp": f"{self._second_as_text}.{int((record.created - second) * 1e6):06}Z",
            **self.fields(record),
        }
        if trace := self.exception(record):
            line["exception"] = trace
        return printable_json(_encode(line))


class _Console(_Formatter):
    """One line for each record; the lines of a traceback follow it, marked as continuations."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(sep=" ", timespec="milliseconds")[:23]
        fields = " ".join(f"{name}={value}" for name, value in self.fields(record).items())
        line = printable(f"{time} {record.levelname:<7} {record.getMessage()}  {fields}")
        trace = self.exception(record)
        return f"{line}\n{CONTINUED}{printable_lines(trace)}" if trace else line


class _Handler(logging.StreamHandler[TextIO]):
    """Writes each line at once, or at the end of the `joined` block that it is logged in."""

    def emit(self, record: logging.LogRecord) -> None:
        buffers = _joined_records.get()
        if buffers is None:
            super().emit(record)
        else:
            buffers.setdefault(self, []).append(record)

    def emit_all(self, records: Sequence[logging.LogRecord]) -> None:
        """Write the lines of `records` with one call. Like `emit` it never raises: a full disk fails no run."""
        try:
            text = "".join(f"{self.format(record)}{self.terminator}" for record in records)
            with self.lock or nullcontext():
                self.stream.write(text)
                self.flush()
        except Exception:
            self.handleError(records[0])


_joined_records: ContextVar[dict[_Handler, list[logging.LogRecord]] | None] = ContextVar("joined_records", default=None)


@contextmanager
def joined() -> Iterator[None]:
    """Write the lines that are logged within the block together, at its end. The block must not await.

    Each write lets other threads have the interpreter, and getting it back takes longer than formatting the line.
    """
    buffers: dict[_Handler, list[logging.LogRecord]] = {}
    token = _joined_records.set(buffers)
    try:
        yield
    finally:
        _joined_records.reset(token)
        for handler, records in buffers.items():
            handler.emit_all(records)


def configure(*, service: str, format: str, level: str) -> None:
    """Send every log line of this process to standard error, as "json" or "console", from `level` on."""
    handler = _Handler(sys.stderr)
    handler.setFormatter(_Console(service) if format == "console" else _Json(service))
    logging.basicConfig(handlers=[handler], level=level, force=True)
    # Our formats show neither the place in the code nor thread and process, so logging need not look them up.
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    # At INFO these log their own internals.
    for name in ("alembic", "httpx", "httpx2", "openai", "kombu", "amqp", "uvicorn", "urllib3"):
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelName(level)))
    logging.getLogger("grpc._cython.cygrpc").addFilter(_is_worth_a_line)


class LevelSwitch:
    """Changes the level of this process's log to DEBUG, and back to the one that is `configured`; where that is DEBUG,
    to INFO and back."""

    def __init__(self, configured: str) -> None:
        self._level, self._other = configured, "INFO" if configured == "DEBUG" else "DEBUG"

    def change(self) -> None:
        """Change it, and say so."""
        self._level, self._other = self._other, self._level
        logging.getLogger().setLevel(self._level)
        logger.warning("the log's level is %s now; SIGUSR1 makes it %s again", self._level, self._other)


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """Drop gRPC's records about headers that are not UTF-8: three tracebacks for each, and any caller can send them.
    And those about the event loop: one for each call that is made, at DEBUG."""
    return not str(record.msg).startswith(("Invalid encoding", "[_cygrpc] Loaded running loop"))


def bind(**values: str) -> None:
    """Add `values` to every line that is logged from here on in this call or task."""
    _bound.set({**_bound.get(), **values})


def bound(name: str) -> str:
    """Return what `name` is bound to in this call or task, or ""."""
    return _bound.get().get(name, "")
