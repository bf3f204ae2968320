"""What a run asks of the AI provider: requests, suggestions and tokens, over all its attempts."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

# The largest values of AiUsage. An event with a larger one would be refused, and its run would never end.
MOST = 10**9  # requests, suggestions, products
MOST_TOKENS = 10**12
MODEL_LENGTH = 200  # characters


class AIUsage(NamedTuple):
    """Counts of a run; the fields are those of playbooks.runs.v1.AiUsage, which says what each of them is."""

    requests: int = 0
    suggestions: int = 0
    reused: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    model: str = ""

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Read counts as executions store them; those that only a newer version knows are passed over."""
        return cls(**{name: document[name] for name in cls._fields if name in document})

    def __str__(self) -> str:
        """Return the counts as log lines have them: names as in JSON."""
        return (
            f"requests={self.requests}, suggestions={self.suggestions}, reused={self.reused}, "
            f"inputTokens={self.input_tokens}, cachedInputTokens={self.cached_input_tokens}, "
            f"outputTokens={self.output_tokens}, model={self.model}"
        )


class UsageMeter:
    """Counts what one attempt at a run asks of the provider, on top of what the attempts `before` it have counted."""

    def __init__(self, before: AIUsage | None = None) -> None:
        self._before = before or AIUsage()
        self._now = before

    @property
    def total(self) -> AIUsage | None:
        """All attempts together. None: the run has not come to its suggestions."""
        return self._now

    def found(self, stored: int, *, model: str) -> None:
        """Count the products whose suggestion is there already, but for what this run's own attempts have paid for."""
        reused = max(stored - self._before.suggestions, 0)
        self._now = (self._now or self._before)._replace(reused=min(reused, MOST), model=model[:MODEL_LENGTH])

    def sent(self) -> None:
        """Count a request that goes out."""
        self._add(requests=1)

    def answered(self, *, input_tokens: int, cached_input_tokens: int, output_tokens: int) -> None:
        """Count the tokens of an answer."""
        self._add(input_tokens=input_tokens, cached_input_tokens=cached_input_tokens, output_tokens=output_tokens)

    def arrived(self, suggestions: int) -> None:
        """Count usable suggestions."""
        self._add(suggestions=suggestions)

    def _add(self, **counts: int) -> None:
        now = self._now or self._before
        self._now = now._replace(
            **{
                name: min(getattr(now, name) + count, MOST_TOKENS if name.endswith("tokens") else MOST)
                for name, count in counts.items()
            }
        )
