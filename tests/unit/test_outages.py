import logging

import pytest

from servicekit.telemetry.outages import REMEMBERED, Outage, Reminder, first_line


class Time:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_reason_is_logged_once_again_each_minute_and_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    time = Time()
    outage = Outage("the database cannot be used", logging.getLogger("test"), clock=time)
    for _ in range(130):
        outage.failed("too many connections")
        time.now += 1
    assert caplog.messages == [
        "the database cannot be used: too many connections",
        "the database cannot be used for 60 s: too many connections",
        "the database cannot be used for 120 s: too many connections",
    ]
    outage.failed("starting up")
    outage.ended()
    outage.ended()
    assert caplog.messages[3:] == [
        "the database cannot be used for 130 s: starting up",
        "the database cannot be used: over after 130.0 s",
    ]
    assert outage.reason == ""


def test_an_outage_that_comes_and_goes_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    time = Time()
    outage = Outage("it fails", logging.getLogger("test"), clock=time)
    for _ in range(100):
        outage.failed("no free connection")
        outage.ended()
        time.now += 0.05
    assert len(caplog.messages) == 2


def test_the_first_line_has_no_secret_and_no_second_line() -> None:
    assert first_line(OSError("no  way, hidden\nDETAIL: more"), "hidden") == "no way, ***"
    assert first_line(TimeoutError()) == "TimeoutError"


def test_what_happens_again_and_again_is_loud_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    time = Time()
    reminder = Reminder(clock=time)
    levels = []
    for _ in range(121):
        levels.append(reminder.level_for("the database is away"))
        time.now += 1
    assert [second for second, level in enumerate(levels) if level == logging.WARNING] == [0, 60, 120]
    assert reminder.level_for("the broker is away") == logging.WARNING


def test_a_thousand_different_lines_a_minute_are_enough() -> None:
    time = Time()
    reminder = Reminder(clock=time)
    levels = [reminder.level_for(f"run {number}") for number in range(3 * REMEMBERED)]
    assert levels.count(logging.WARNING) == REMEMBERED
    time.now += 61
    assert reminder.level_for("run 1") == logging.WARNING
