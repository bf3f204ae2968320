"""Spans: what took how long, across processes. Nothing here imports OpenTelemetry unless traces are exported.

A call is recorded when its caller's `traceparent` is sampled, else by chance; everything that follows from it is
recorded with it. So what is not recorded pays for one comparison.
"""

import random
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from contextvars import ContextVar
from enum import Enum
from typing import Final

from servicekit.config.tracing import TracingSettings
from servicekit.telemetry.trace_context import TraceContext, enter_trace

RUN_ATTRIBUTE: Final = "playbook.run.id"
Attributes = Mapping[str, str | int | float | bool]


class Kind(Enum):
    """What a span is to the process at its other end, as OpenTelemetry names it."""

    INTERNAL = "INTERNAL"
    SERVER = "SERVER"
    CLIENT = "CLIENT"
    PRODUCER = "PRODUCER"
    CONSUMER = "CONSUMER"


class Span:
    """A span under way. This one is not recorded."""

    def set(self, attributes: Attributes) -> None:
        """Add attributes."""

    def link(self, context: TraceContext) -> None:
        """Name a span of another trace that this one has to do with."""

    def rename(self, name: str) -> None:
        """Give it another name: one of few, without values."""

    def fail(self, kind: str) -> None:
        """Note that it failed; `kind` is one of few words, and no message: that may quote a product."""

    def end(self) -> None:
        """End it now. Later ends change nothing."""


class Recorder(ABC):
    """Records spans; servicekit.telemetry.trace_export has the one that sends them to a collector."""

    @abstractmethod
    def start(
        self, name: str, kind: Kind, parent: TraceContext | None, link: TraceContext | None, since: int | None
    ) -> tuple[Span, TraceContext]:
        """Start a span, and return it with its place. `since`: its start in nanoseconds since 1970; None: now."""

    @abstractmethod
    async def close(self) -> None:
        """Send what is left, for a moment."""


class _Recording:
    """A recorded span that is under way in this task, and what its children are to have from it."""

    __slots__ = ("attributes", "context", "recorder", "span")

    def __init__(self, recorder: Recorder, span: Span, context: TraceContext, attributes: Attributes) -> None:
        self.recorder = recorder
        self.span = span
        self.context = context
        self.attributes = attributes


_current: ContextVar[_Recording | None] = ContextVar("recording", default=None)
_UNRECORDED: Final = Span()
_NOTHING: Final = nullcontext(_UNRECORDED)  # may be entered any number of times


class Tracing:
    """The spans that begin in this process. Without a `recorder` there are none.

    `ratio` of the calls that come without a trace are recorded. One that comes with an unsampled trace is not, unless
    `ignores_parent`.
    """

    def __init__(self, recorder: Recorder | None = None, *, ratio: float = 1.0, ignores_parent: bool = False) -> None:
        self._recorder = recorder
        self._ratio = ratio
        self._ignores_parent = ignores_parent
        self.is_on = recorder is not None

    def samples(self, caller: TraceContext | None) -> bool:
        """Decide whether a call is recorded."""
        if caller is None or (self._ignores_parent and not caller.is_sampled):
            return random.random() < self._ratio  # noqa: S311  # no secret
        return caller.is_sampled

    def span(
        self, name: str, kind: Kind, parent: TraceContext | None, *, attributes: Attributes, link: bool = False
    ) -> AbstractContextManager[Span]:
        """Enter a recorded span, a child of `parent`; with `link`: in a trace of its own that names `parent`.

        Spans within the block are its children (`child`) and have its `attributes`.
        """
        if self._recorder is None:
            return _NOTHING
        return _entered(self._recorder, name, kind, parent, attributes, link=link)

    def follow(
        self, name: str, kind: Kind, traceparent: str, *, attributes: Attributes, link: bool = False
    ) -> AbstractContextManager[Span]:
        """Enter a span as `span` does if the trace of `traceparent` is recorded; else only that trace, for the log."""
        parent = TraceContext.parse(traceparent)
        if parent is None:
            return _NOTHING
        if self._recorder is None or not parent.is_sampled:
            enter_trace(parent)
            return _NOTHING
        return _entered(self._recorder, name, kind, parent, attributes, link=link)

    def note(self, name: str, kind: Kind, traceparent: str, *, since: int, attributes: Attributes) -> None:
        """Record a span that began at `since` (`now`) and ends now, if the trace of `traceparent` is recorded: one
        of many whose work was done together."""
        if self._recorder is None or not traceparent:
            return
        parent = TraceContext.parse(traceparent)
        if parent and parent.is_sampled:
            span, _ = self._recorder.start(name, kind, parent, None, since)
            span.set(attributes)
            span.end()


OFF: Final = Tracing()


def child(name: str, kind: Kind = Kind.INTERNAL, attributes: Attributes | None = None) -> AbstractContextManager[Span]:
    """Enter a child of the span that is under way in this task, if there is one."""
    parent = _current.get()
    if parent is None:
        return _NOTHING
    merged = {**parent.attributes, **(attributes or {})}
    return _entered(parent.recorder, name, kind, parent.context, merged)


def current_span() -> Span:
    """Return the span that is under way in this task."""
    recording = _current.get()
    return recording.span if recording else _UNRECORDED


def is_recording() -> bool:
    """Return whether a span is under way in this task."""
    return _current.get() is not None


def now() -> int:
    """Return the time as spans have it: nanoseconds since 1970."""
    return time.time_ns()


@contextmanager
def _entered(
    recorder: Recorder,
    name: str,
    kind: Kind,
    parent: TraceContext | None,
    attributes: Attributes,
    *,
    link: bool = False,
) -> Iterator[Span]:
    span, context = recorder.start(name, kind, None if link else parent, parent if link else None, None)
    span.set(attributes)
    before = _current.get()
    _current.set(_Recording(recorder, span, context, attributes))
    enter_trace(context)
    try:
        yield span
    except BaseException as error:
        span.fail(type(error).__name__)
        raise
    finally:
        span.end()
        # Not by a token: a stream's task may end it in another context.
        _current.set(before)
        if before is not None:
            enter_trace(before.context)


@asynccontextmanager
async def tracing_by(settings: TracingSettings, *, service: str) -> AsyncIterator[Tracing]:
    """Enter the tracing that the settings ask for, of a process of `service`; at the end, what is left is sent.

    Raises SystemExit when traces are to be exported and the packages for that are not installed.
    """
    if not settings.exports_traces:
        yield OFF
        return
    try:
        from servicekit.telemetry.trace_export import Exporting
    except ImportError as error:
        raise SystemExit(
            f"OTEL_EXPORTER_OTLP_ENDPOINT is set, and {error.name} is not installed: pip install 'playbook-runs[otel]'"
        ) from error
    recorder = Exporting(settings.traces_endpoint, service=settings.otel_service_name or service)
    try:
        yield Tracing(recorder, ratio=settings.trace_ratio, ignores_parent=settings.ignores_parent)
    finally:
        await recorder.close()
