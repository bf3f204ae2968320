"""The metrics of AI requests: what their histogram can tell apart."""

from annotated_types import Le
from prometheus_client import CollectorRegistry

from executor_service.ai.metrics import AIMetrics
from executor_service.settings import ExecutorSettings


def test_a_request_of_the_longest_time_that_a_setting_allows_is_in_a_bucket() -> None:
    fields = ExecutorSettings.model_fields
    limits = [
        limit.le
        for name in ("ai_timeout_seconds", "ai_economy_timeout_seconds")
        for limit in fields[name].metadata
        if isinstance(limit, Le)
    ]
    assert len(limits) == 2
    longest = float(str(max(limits)))  # type: ignore[type-var]
    registry = CollectorRegistry()
    AIMetrics(registry, {}).requested("m", "OK", longest)
    labels = {"model": "m", "le": str(longest)}
    assert registry.get_sample_value("playbook_runs_ai_request_seconds_bucket", labels) == 1
