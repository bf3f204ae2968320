"""OpenTelemetry's own variables, as far as they are read here; its package reads others of them itself."""

from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings


class TracingSettings(BaseSettings):
    """Whether traces are exported, where to, and how many."""

    otel_exporter_otlp_endpoint: str | None = Field(default=None, pattern=r"^https?://\S+$")
    """An OpenTelemetry collector (OTLP over HTTP: `http://collector:4318`) that gets traces; unset: there are none.
    Needs the extra `otel`."""
    otel_exporter_otlp_traces_endpoint: str | None = Field(default=None, pattern=r"^https?://\S+$")
    """The same with its path, for traces alone: `http://collector:4318/v1/traces`."""
    otel_exporter_otlp_protocol: Literal["http/protobuf"] = "http/protobuf"
    """How traces are sent."""
    otel_exporter_otlp_traces_protocol: Literal["http/protobuf"] = "http/protobuf"
    """The same, for traces alone."""
    otel_traces_exporter: Literal["otlp", "none"] = "otlp"
    """`none`: no traces."""
    otel_sdk_disabled: bool = False
    """`true`: no traces."""
    otel_traces_sampler: Literal[
        "always_on",
        "always_off",
        "traceidratio",
        "parentbased_always_on",
        "parentbased_always_off",
        "parentbased_traceidratio",
    ] = "parentbased_always_on"
    """Which calls are recorded that come without a trace. What comes with a sampled `traceparent` always is; what comes
    with an unsampled one only by a sampler that is not `parentbased_`."""
    otel_traces_sampler_arg: float = Field(default=1.0, ge=0, le=1)
    """The share of them, for a sampler with `traceidratio`."""
    otel_service_name: str | None = Field(default=None, max_length=255)
    """The service's name in traces; unset: `runs-service`, `executor-service` or `runs-gateway`."""

    @model_validator(mode="after")
    def _sampler_is_whole(self) -> Self:
        if self.otel_traces_sampler_arg != 1.0 and "traceidratio" not in self.otel_traces_sampler:
            raise ValueError(
                "OTEL_TRACES_SAMPLER_ARG is for OTEL_TRACES_SAMPLER=traceidratio or parentbased_traceidratio"
            )
        return self

    @property
    def exports_traces(self) -> bool:
        """Whether there are traces."""
        return bool(self.traces_endpoint) and self.otel_traces_exporter == "otlp" and not self.otel_sdk_disabled

    @property
    def traces_endpoint(self) -> str:
        """Where they go; "" without a collector."""
        if self.otel_exporter_otlp_traces_endpoint:
            return self.otel_exporter_otlp_traces_endpoint
        base = self.otel_exporter_otlp_endpoint
        return f"{base.rstrip('/')}/v1/traces" if base else ""

    @property
    def trace_ratio(self) -> float:
        """The share of the calls without a trace that is recorded."""
        if "traceidratio" in self.otel_traces_sampler:
            return self.otel_traces_sampler_arg
        return float(self.otel_traces_sampler.endswith("always_on"))

    @property
    def ignores_parent(self) -> bool:
        """Whether calls with an unsampled trace are treated like those without one."""
        return not self.otel_traces_sampler.startswith("parentbased_")
