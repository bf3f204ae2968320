from collections.abc import Callable

import pytest

from executor_service.ai.errors import AIError
from executor_service.ai.retry import RetryPolicy
from executor_service.ai.waits import retry_after_seconds


class Waits(list[float]):
    """Stands in for sleeping: remembers how long it would have taken."""

    async def __call__(self, seconds: float) -> None:
        self.append(seconds)


def policy(waits: Waits, *, chance: float = 1.0, **settings: float) -> RetryPolicy:
    return RetryPolicy(sleep=waits, random=lambda: chance, **settings)  # type: ignore[arg-type]


def failing(times: int, make: Callable[[], Exception]) -> Callable[[], object]:
    left = times

    async def operation() -> str:
        nonlocal left
        if left:
            left -= 1
            raise make()
        return "done"

    return operation


def temporary(retry_after_seconds: float | None = None) -> AIError:
    return AIError(
        "AI_PROVIDER_ERROR", "It broke", "Try later.", retryable=True, retry_after_seconds=retry_after_seconds
    )


async def test_a_success_is_returned_without_waiting() -> None:
    waits = Waits()
    assert await policy(waits).run(failing(0, temporary)) == "done"
    assert waits == []


async def test_waits_double_up_to_the_cap() -> None:
    waits = Waits()
    assert await policy(waits, attempts=7, base_seconds=1, cap_seconds=10).run(failing(6, temporary)) == "done"
    assert waits == [1, 2, 4, 8, 10, 10]


async def test_chance_takes_at_most_half_of_a_wait() -> None:
    waits = Waits()
    await policy(waits, chance=0.0, base_seconds=1).run(failing(3, temporary))
    assert waits == [0.5, 1, 2]


async def test_retry_after_replaces_the_wait_and_is_capped() -> None:
    waits = Waits()
    settings = policy(waits, chance=0.0, retry_after_cap_seconds=30)
    await settings.run(failing(1, lambda: temporary(7)))
    await settings.run(failing(1, lambda: temporary(3600)))
    await settings.run(failing(1, lambda: temporary(0)))
    assert waits == [7, 30, 0]


async def test_requests_turned_away_together_come_back_apart() -> None:
    waits = Waits()
    for chance in (0.0, 0.5):
        await policy(waits, chance=chance, base_seconds=1).run(failing(1, lambda: temporary(7)))
    assert waits == [7, 7.5]


async def test_the_last_failure_is_raised_and_counts_the_attempts() -> None:
    waits = Waits()
    with pytest.raises(AIError) as caught:
        await policy(waits, attempts=3).run(failing(3, temporary))
    assert str(caught.value) == "It broke; gave up after 3 attempts. Try later."
    assert len(waits) == 2


async def test_a_final_failure_is_raised_at_once() -> None:
    waits = Waits()
    with pytest.raises(AIError) as caught:
        await policy(waits).run(failing(1, lambda: AIError("AI_PROVIDER_ERROR", "It broke", "Mend it.")))
    assert str(caught.value) == "It broke. Mend it."
    assert waits == []


async def test_other_exceptions_are_not_repeated() -> None:
    with pytest.raises(ZeroDivisionError):
        await policy(Waits()).run(failing(1, ZeroDivisionError))


def test_no_attempt_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="attempts is 0"):
        RetryPolicy(attempts=0)


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after": "-7"}, 0),
        ({"retry-after-ms": "1500", "retry-after": "7"}, 1.5),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 -0000"}, 0),
        ({"retry-after": "Wed, 21 Oct 99999999999 07:28:00 GMT"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "soon"}, None),
        ({}, None),
    ],
)
def test_a_wait_that_a_response_asks_for_is_read_and_nonsense_is_not(said: dict[str, str], seconds: float) -> None:
    assert retry_after_seconds(said) == seconds
