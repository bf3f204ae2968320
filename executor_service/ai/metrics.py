"""The metrics of AI requests, by model: a process has one."""

from collections.abc import Mapping
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Histogram

from executor_service.ai.errors import AIErrorCode
from executor_service.ai.openai_usage import Tokens
from executor_service.ai.prices import Price

# Seconds, up to the longest time limit of an economy request.
BUCKETS = (0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)
# Outcomes of requests besides OK and the error codes.
CANCELLED = "CANCELLED"  # its run was cancelled, or its process stops
NO_ROOM = "NO_ROOM"  # an economy request that is sent again later, as is to be expected
INTERNAL_ERROR = "INTERNAL_ERROR"  # an exception that nobody expects: a fault of ours
ECONOMY_PRICE = 0.5  # of the full one, as OpenAI charges for flex processing


class AIMetrics:
    """Counts requests, tokens and, for models with a price in `prices`, what they cost; in `registry`."""

    def __init__(self, registry: CollectorRegistry, prices: Mapping[str, Price]) -> None:
        self._prices = prices

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(name, what, ["model", *labels], registry=registry)

        self._requests = counter(
            "playbook_runs_ai_requests_total",
            "Requests to the AI provider: OK, CANCELLED, NO_ROOM (for economy, which waits for it), INTERNAL_ERROR "
            "or an error code",
            "outcome",
        )
        self._seconds = Histogram(
            "playbook_runs_ai_request_seconds",
            "Time a request to the AI provider took",
            ["model"],
            buckets=BUCKETS,
            registry=registry,
        )
        self._retries = counter("playbook_runs_ai_retries_total", "Requests that repeat one that failed")
        self._input = counter("playbook_runs_ai_input_tokens_total", "Tokens that the model read, cached ones included")
        self._cached_input = counter(
            "playbook_runs_ai_cached_input_tokens_total", "Tokens that the model read and the provider had cached"
        )
        self._output = counter(
            "playbook_runs_ai_output_tokens_total", "Tokens that the model wrote, its thoughts included"
        )
        self._cost = counter(
            "playbook_runs_ai_cost_dollars_total", "What these tokens cost by AI_PRICES; no series without a price"
        )

    def expect(self, model: str) -> None:
        """Begin the series of a model with 0: of one that begins with 1 no alert sees the increase."""
        for outcome in ("OK", CANCELLED, NO_ROOM, INTERNAL_ERROR, *get_args(AIErrorCode)):
            self._requests.labels(model, outcome)
        self._retries.labels(model)
        self.used(model, Tokens())

    def requested(self, model: str, outcome: str, seconds: float) -> None:
        """Count a request, and how it ended after `seconds`."""
        self._requests.labels(model, outcome).inc()
        self._seconds.labels(model).observe(seconds)

    def retried(self, model: str) -> None:
        """Count a repeated request."""
        self._retries.labels(model).inc()

    def used(self, model: str, tokens: Tokens, *, economy: bool = False) -> None:
        """Count the tokens of an answer; those of an economy request cost less."""
        self._input.labels(model).inc(tokens.input)
        self._cached_input.labels(model).inc(tokens.cached_input)
        self._output.labels(model).inc(tokens.output)
        if price := self._prices.get(model):
            self._cost.labels(model).inc(price.cost(tokens) * (ECONOMY_PRICE if economy else 1.0))
