"""Which trace a call or a run belongs to, as W3C Trace Context writes it: the header `traceparent`."""

import re
from contextvars import ContextVar
from typing import Final, NamedTuple

from servicekit.telemetry import logs

HEADER: Final = "traceparent"
LONGEST: Final = 128  # characters; version 00 has 55, and later versions may append to them
# Neither id is all zeros, and there is no version ff.
_FORMAT: Final = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-[\x20-\x7e]*)?"
)


class TraceContext(NamedTuple):
    """A place in a trace: what comes next is a child of the span `span_id`."""

    trace_id: str  # 32 hex digits
    span_id: str  # 16 hex digits
    is_sampled: bool  # its spans are recorded

    @classmethod
    def parse(cls, text: str) -> "TraceContext | None":
        """Parse a `traceparent`. An invalid one counts as absent, as the standard says."""
        if not text or len(text) > LONGEST:
            return None
        found = _FORMAT.fullmatch(text)
        if found is None or (found[1] == "00" and found[5] is not None):
            return None
        return cls(found[2], found[3], bool(int(found[4], 16) & 1))

    def __str__(self) -> str:
        """Return it as `traceparent` has it."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.is_sampled else '00'}"


_current: ContextVar[TraceContext | None] = ContextVar("trace_context", default=None)


def current_trace() -> TraceContext | None:
    """Return the place in a trace of this call or task, or None."""
    return _current.get()


def current_traceparent() -> str:
    """Return the same as `traceparent` has it, or ""."""
    context = _current.get()
    return str(context) if context else ""


def enter_trace(context: TraceContext) -> None:
    """From here on this call or task is at `context`, and its log lines have the id of the trace."""
    _current.set(context)
    logs.bind(trace_id=context.trace_id)
