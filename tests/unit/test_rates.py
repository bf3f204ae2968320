"""Rates: an average, a burst, and nothing kept of those that are idle."""

import pytest

from servicekit.rpc.rates import Rates


class Now:
    def __init__(self) -> None:
        self.seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds


def taken(rates: Rates, key: str, times: int) -> int:
    return sum(rates.take(key) for _ in range(times))


def test_a_burst_goes_through_and_then_the_average() -> None:
    now = Now()
    rates = Rates(per_second=8, burst=5, now=now)
    assert taken(rates, "a", 100) == 40
    now.seconds += 1
    assert taken(rates, "a", 100) == 8
    now.seconds += 3_600
    assert taken(rates, "a", 100) == 40, "an hour's pause does not add up"


def test_keys_do_not_share_their_permits() -> None:
    rates = Rates(per_second=1, burst=2, now=Now())
    assert (taken(rates, "a", 5), taken(rates, "b", 5)) == (2, 2)


@pytest.mark.parametrize("per_second", [0.01, 0.3])
def test_a_rate_below_one_burst_lets_one_through(per_second: float) -> None:
    now = Now()
    rates = Rates(per_second=per_second, burst=1, now=now)
    assert taken(rates, "a", 5) == 1
    now.seconds += 1.01 / per_second
    assert taken(rates, "a", 5) == 1


def test_who_is_refused_does_not_wait_longer_for_it() -> None:
    now = Now()
    rates = Rates(per_second=1, burst=1, now=now)
    assert rates.take("a")
    taken(rates, "a", 1_000)
    now.seconds += 1.01
    assert rates.take("a")


def test_idle_keys_are_forgotten() -> None:
    now = Now()
    rates = Rates(per_second=10, burst=5, now=now)
    for number in range(10_000):
        rates.take(str(number))
        now.seconds += 0.01  # each key has its permit back after a tenth of a second
    assert len(rates) <= 12
