"""AI_PRICES: what tokens cost, and what is no table of prices."""

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from executor_service.ai.metrics import AIMetrics
from executor_service.ai.openai_usage import Tokens
from executor_service.ai.prices import EXAMPLE, Price, read_prices

TABLE = '{"m": {"input": 4, "cached_input": 1, "output": 8}, "n": {"input": 3, "output": 6.5}}'


def test_prices_are_of_a_million_tokens_and_cached_ones_cost_their_own() -> None:
    prices = read_prices(TABLE)
    assert prices == {"m": Price(4, 1, 8), "n": Price(3, 3, 6.5)}
    assert prices["m"].cost(Tokens(input=1_000_000, cached_input=250_000, output=500_000)) == 3 + 0.25 + 4
    assert prices["n"].cost(Tokens(input=1_000_000, cached_input=250_000, output=0)) == 3


def test_prices_are_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "prices.json"
    file.write_text(TABLE)
    assert read_prices(str(file)) == read_prices(TABLE)


def test_the_example_in_the_documentation_can_be_read() -> None:
    assert EXAMPLE in (Path(__file__).parents[2] / "docs/operations.md").read_text()
    assert read_prices(EXAMPLE)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "expected a JSON object"),
        ("[1]", "expected a JSON object"),
        ("/nowhere/prices.json", "a file with one that can be read"),
        ("a\0b", "a file with one that can be read"),
        ('{"m": 3}', "the prices of 'm' must be input, output"),
        ('{"m": {"input": 3}}', "must be input, output"),
        ('{"m": {"input": 3, "output": 3, "outptu": 1}}', "must be input, output"),
        ('{"m": {"input": -1, "output": 3}}', "the price input of 'm' must be a number that is not negative"),
        ('{"m": {"input": "1", "output": 3}}', "the price input of 'm' must be a number"),
        ('{"m": {"input": true, "output": 3}}', "the price input of 'm' must be a number"),
        ('{"m": {"input": 1, "output": Infinity}}', "the price output of 'm' must be a number"),
        ('{"m": {"input": 1, "output": NaN}}', "the price output of 'm' must be a number"),
    ],
)
def test_what_is_no_price_is_named(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        read_prices(text)


def test_a_model_without_a_price_has_no_cost_and_all_others_begin_with_nothing() -> None:
    registry = CollectorRegistry()
    metrics = AIMetrics(registry, read_prices(TABLE))
    for model in ("m", "unknown"):
        metrics.expect(model)
        metrics.used(model, Tokens(input=10, cached_input=4, output=5))

    def value(name: str, model: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"playbook_runs_ai_{name}_total", {"model": model, **labels})

    for model in ("m", "unknown"):
        counts = [value(f"{name}_tokens", model) for name in ("input", "cached_input", "output")]
        assert counts == [10, 4, 5], model
        assert value("requests", model, outcome="AI_AUTHENTICATION_FAILED") == 0
    assert value("cost_dollars", "m") == pytest.approx((6 * 4 + 4 * 1 + 5 * 8) / 1_000_000)
    assert value("cost_dollars", "unknown") is None
    metrics.used("m", Tokens(input=10, cached_input=4, output=5), economy=True)
    assert value("cost_dollars", "m") == pytest.approx((6 * 4 + 4 * 1 + 5 * 8) * 1.5 / 1_000_000)
