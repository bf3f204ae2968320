"""What tokens cost, as the operator says: providers do not tell."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from executor_service.ai.openai_usage import Tokens

EXAMPLE: Final = '{"gpt-6-luna": {"input": 0.25, "cached_input": 0.025, "output": 2}}'
_NAMES: Final = frozenset({"input", "cached_input", "output"})
_MILLION: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Price:
    """The prices of a model, for a million tokens each."""

    input: float
    cached_input: float
    output: float

    def cost(self, tokens: Tokens) -> float:
        """Return what these tokens cost."""
        fresh = tokens.input - tokens.cached_input
        return (fresh * self.input + tokens.cached_input * self.cached_input + tokens.output * self.output) / _MILLION


def read_prices(text: str) -> Mapping[str, Price]:
    """Return the prices by model: `text` is a JSON object, or the path of a file with one. Raises ValueError."""
    if not text.lstrip().startswith("{"):
        try:
            text = Path(text).read_text()
        except (OSError, ValueError):
            raise ValueError(f"expected a JSON object like {EXAMPLE}, or a file with one that can be read") from None
    try:
        models: dict[str, Any] = dict(json.loads(text))
    except (TypeError, ValueError, RecursionError):
        raise ValueError(f"expected a JSON object like {EXAMPLE}") from None
    return {model: _price(model, prices) for model, prices in models.items()}


def _price(model: str, prices: Any) -> Price:
    if not isinstance(prices, dict) or not {"input", "output"} <= prices.keys() <= _NAMES:
        raise ValueError(
            f"the prices of {model!r} must be input, output and, if it differs from input, cached_input: for a million "
            "tokens each"
        )
    for name, price in prices.items():
        if isinstance(price, bool) or not isinstance(price, int | float) or not 0 <= price < math.inf:
            raise ValueError(f"the price {name} of {model!r} must be a number that is not negative")
    return Price(**({"cached_input": prices["input"]} | prices))
