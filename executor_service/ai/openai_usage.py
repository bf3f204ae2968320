"""Reading what a completion cost: the object `usage` of OpenAI's protocol."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

# More than any model reads or writes in one request: what a server states beyond that is no count.
MOST: Final = 100_000_000
_DETAILS: Final = ("prompt_tokens_details", "input_tokens_details")


class Tokens(NamedTuple):
    """The tokens of one answer."""

    input: int = 0
    cached_input: int = 0  # of `input`
    output: int = 0


def tokens_of(answer: Mapping[str, Any]) -> Tokens:
    """Return the tokens that an answer states, 0 for each number that it does not: not every server counts."""
    usage = answer.get("usage")
    if not isinstance(usage, dict):
        return Tokens()
    read = _count(usage, "prompt_tokens", "input_tokens")
    details = next((part for name in _DETAILS if isinstance(part := usage.get(name), dict)), {})
    cached = _count(details, "cached_tokens") or _count(usage, "prompt_cache_hit_tokens", "cached_tokens")
    return Tokens(read, min(cached, read), _count(usage, "completion_tokens", "output_tokens"))


def _count(values: Mapping[str, Any], *names: str) -> int:
    for name in names:
        value = values.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= MOST:
            return int(value)
    return 0
