"""What a run asks of the AI provider, counted."""

from typing import Any

import pytest

from executor_service.ai.openai_usage import MOST, Tokens, tokens_of
from executor_service.domain.ai_usage import MOST_TOKENS, AIUsage, UsageMeter


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 900, "completion_tokens": 80, "total_tokens": 980}, Tokens(900, 0, 80)),
        ({"prompt_tokens": 900, "prompt_tokens_details": {"cached_tokens": 512}}, Tokens(900, 512, 0)),
        ({"input_tokens": 7, "input_tokens_details": {"cached_tokens": 3}, "output_tokens": 5}, Tokens(7, 3, 5)),
        ({"prompt_tokens": 900, "prompt_tokens_details": None, "completion_tokens": 80.0}, Tokens(900, 0, 80)),
        ({"prompt_tokens": 10, "prompt_cache_hit_tokens": 4, "completion_tokens": 1}, Tokens(10, 4, 1)),
        ({"prompt_tokens": 10, "prompt_tokens_details": {"cached_tokens": 11}}, Tokens(10, 10, 0)),
        ({"prompt_tokens": "900", "completion_tokens": True}, Tokens()),
        ({"prompt_tokens": -1, "completion_tokens": MOST + 1}, Tokens()),
        ({"prompt_tokens": float("nan"), "completion_tokens": float("inf")}, Tokens()),
        (None, Tokens()),
        ([1, 2], Tokens()),
    ],
    ids=str,
)
def test_tokens_are_read_where_a_server_states_them_as_counts(usage: Any, tokens: Tokens) -> None:
    assert tokens_of({"usage": usage}) == tokens


def test_a_server_that_counts_nothing_is_no_fault() -> None:
    assert tokens_of({"choices": []}) == Tokens()


def test_an_attempt_adds_to_those_before_it() -> None:
    before = AIUsage(2, 10, 3, 900, 100, 80, "old")
    meter = UsageMeter(before)
    assert meter.total == before
    meter.found(13, model="new")  # 3 that were there and 10 that this run has paid for
    meter.sent()
    meter.answered(input_tokens=50, cached_input_tokens=5, output_tokens=7)
    meter.arrived(4)
    assert meter.total == AIUsage(3, 14, 3, 950, 105, 87, "new")
    assert AIUsage.from_json({**meter.total._asdict(), "of_a_newer_version": 1}) == meter.total


def test_a_run_that_asks_for_nothing_has_no_counts() -> None:
    assert UsageMeter().total is None


def test_what_a_server_claims_keeps_within_what_an_event_may_say() -> None:
    meter = UsageMeter(AIUsage(input_tokens=MOST_TOKENS))
    meter.found(0, model="m" * 1_000)
    meter.answered(input_tokens=1, cached_input_tokens=1, output_tokens=1)
    assert meter.total == AIUsage(0, 0, 0, MOST_TOKENS, 1, 1, "m" * 200)
