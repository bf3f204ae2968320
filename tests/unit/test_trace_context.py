"""What callers send as `traceparent`: the standard's format, and everything else."""

import random

import pytest

from servicekit.config.tracing import TracingSettings
from servicekit.rpc.interceptors.request_ids import bind_request_id
from servicekit.telemetry import logs
from servicekit.telemetry.trace_context import TraceContext, current_traceparent
from servicekit.telemetry.tracing import Kind, Recorder, Span, Tracing, child, is_recording

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GOOD = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    ("text", "is_sampled"),
    [
        (GOOD, True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-ff", True),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-holds", True),
    ],
)
def test_a_traceparent_is_read(text: str, is_sampled: bool) -> None:
    context = TraceContext.parse(text)
    assert context == (TRACE, SPAN, is_sampled)
    assert str(context) == f"00-{TRACE}-{SPAN}-{'01' if is_sampled else '00'}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "garbage",
        GOOD.upper(),
        f"{GOOD} ",
        f"{GOOD}\n",
        f"{GOOD}-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"cc-{TRACE}-{SPAN}-01-{'x' * 9000}",
        f"cc-{TRACE}-{SPAN}-01-\x1b[2J",
        "0\u0660" + GOOD[2:],
    ],
)
async def test_anything_else_counts_as_none(text: str) -> None:
    assert TraceContext.parse(text) is None
    bind_request_id([("traceparent", text), ("x-request-id", "r-1")])
    assert (current_traceparent(), logs.bound("trace_id"), logs.bound("request_id")) == ("", "", "r-1")


async def test_a_call_has_its_callers_trace_whether_or_not_it_is_recorded() -> None:
    bind_request_id([("traceparent", GOOD)])
    assert (current_traceparent(), logs.bound("trace_id")) == (GOOD, TRACE)


class Listing(Recorder):
    def __init__(self) -> None:
        self.started: list[str] = []

    def start(
        self, name: str, kind: Kind, parent: TraceContext | None, link: TraceContext | None, since: int | None
    ) -> tuple[Span, TraceContext]:
        self.started.append(name)
        return Span(), TraceContext(parent.trace_id if parent else TRACE, SPAN, True)

    async def close(self) -> None:
        pass


def samples(sampler: str, *, arg: float = 1.0, caller: str = "") -> float:
    """Return the share of calls that are recorded."""
    settings = TracingSettings(otel_traces_sampler=sampler, otel_traces_sampler_arg=arg)  # type: ignore[arg-type]
    tracing = Tracing(Listing(), ratio=settings.trace_ratio, ignores_parent=settings.ignores_parent)
    context = TraceContext.parse(caller)
    return sum(tracing.samples(context) for _ in range(2000)) / 2000


def test_the_samplers_of_the_standard() -> None:
    random.seed(1)
    unsampled = GOOD[:-1] + "0"
    assert samples("parentbased_always_on") == samples("always_on") == 1
    assert samples("parentbased_always_off") == samples("always_off") == 0
    assert 0.2 < samples("parentbased_traceidratio", arg=0.25) < 0.3
    assert 0.2 < samples("traceidratio", arg=0.25, caller=unsampled) < 0.3
    assert samples("parentbased_always_on", caller=unsampled) == 0
    assert samples("always_on", caller=unsampled) == 1
    assert samples("always_off", caller=GOOD) == samples("traceidratio", arg=0, caller=GOOD) == 1


def test_nothing_that_follows_from_an_unrecorded_call_makes_a_span() -> None:
    recorder = Listing()
    tracing = Tracing(recorder)
    with tracing.follow("attempt", Kind.CONSUMER, GOOD[:-1] + "0", attributes={}), child("effect"):
        assert not is_recording()
        tracing.note("send", Kind.PRODUCER, GOOD[:-1] + "0", since=1, attributes={})
    with tracing.follow("attempt", Kind.CONSUMER, "", attributes={}), child("effect"):
        assert not is_recording()
    assert recorder.started == []
    with tracing.follow("attempt", Kind.CONSUMER, GOOD, attributes={}), child("effect"):
        tracing.note("send", Kind.PRODUCER, GOOD, since=1, attributes={})
    assert recorder.started == ["attempt", "effect", "send"]
