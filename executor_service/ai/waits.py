"""When a provider says to come back: in headers, in the body of its answer, in words."""

import math
import re
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

# "1m30.5s", "6m0s", "350ms", "20 seconds", "1 minute and 5 seconds"
_UNITS: Final = {"ms": 0.001, "milli": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_UNIT = r"(?:ms|millis(?:econds?)?|milliseconds?|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d)(?![a-z])"
_PART = rf"(\d{{1,9}}(?:\.\d{{1,9}})?)\s?({_UNIT})"
_DURATION = re.compile(rf"{_PART}(?:[\s,]{{0,2}}(?:and\s)?{_PART}){{0,3}}", re.IGNORECASE)
_EACH_PART = re.compile(_PART, re.IGNORECASE)
_NUMBER = re.compile(r"\d{1,15}(?:\.\d{1,9})?")
_STATED = re.compile(
    rf"\b(?:try(?:\sagain)?|retry(?:ing)?|wait(?:ing)?|available|resets?|come\sback)(?:\s(?:again|your|this|the|request|at|"
    rf"least|another|about|approximately))*\s?(?:in|after|for)?:?\s(?={_PART})",
    re.IGNORECASE,
)
_IN_BODY: Final = {"retry_after_ms": 0.001, "retryAfterMs": 0.001}
_IN_BODY_SECONDS: Final = (
    "retryDelay",
    "retry_delay",
    "retry_after",
    "retryAfter",
    "retry-after",
    "retry_after_seconds",
)
_EPOCH: Final = 1_000_000_000  # seconds; what is no less is a moment, not a duration
_DEPTH: Final = 5  # of objects in an error


def wait_of(headers: Mapping[str, str], body: object, words: str) -> float | None:
    """Return how many seconds a refusal asks to wait, None where it says nothing of it.

    What it says most clearly counts: the header for it, its own words, then when its limits are reset.
    """
    headers = {name.lower(): value for name, value in headers.items()}
    for wait in (retry_after_seconds(headers), _of_body(body), _of_words(words), _of_resets(headers)):
        if wait is not None:
            return wait
    return None


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """Return the wait a response asks for, in seconds, or None: `retry-after-ms`, seconds or an HTTP date."""
    for name, divisor in (("retry-after-ms", 1000), ("retry-after", 1)):
        try:
            wait = float(headers[name]) / divisor
        except (KeyError, ValueError):
            continue
        return max(wait, 0.0) if math.isfinite(wait) else None
    if (text := headers.get("retry-after")) is None:
        return None
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return _duration(text)
    return _until(date)


def _of_resets(headers: Mapping[str, str]) -> float | None:
    """Return when the limits that are used up are there again; when none says so, all of those that are named."""
    resets: list[tuple[float, bool]] = []
    for name, value in headers.items():
        if "ratelimit" not in name or "reset" not in name:
            continue
        if (wait := _moment(value)) is not None:
            left = headers.get(name.replace("reset", "remaining"), "").strip()
            resets.append((wait, not left or left.startswith(("0", "-"))))
    used_up = [wait for wait, is_used_up in resets if is_used_up]
    return max(used_up or [wait for wait, _ in resets], default=None)


def _of_body(body: object) -> float | None:
    """Return what google.rpc.RetryInfo, its like, or headers passed on in the body say."""
    for part in _objects(body, _DEPTH):
        for name, factor in _IN_BODY.items():
            if isinstance(value := part.get(name), int | float) and math.isfinite(value):
                return max(value * factor, 0.0)
        for name in _IN_BODY_SECONDS:
            if (wait := _seconds(part.get(name))) is not None:
                return wait
        if isinstance(headers := part.get("headers"), dict):
            texts = {str(name).lower(): str(value) for name, value in headers.items()}
            wait = retry_after_seconds(texts)
            if (wait := _of_resets(texts) if wait is None else wait) is not None:
                return wait
    return None


def _objects(body: object, depth: int) -> Iterator[dict[str, Any]]:
    if isinstance(body, dict):
        yield body
    parts = body.values() if isinstance(body, dict) else body if isinstance(body, list) else ()
    if depth:
        for part in list(parts)[:100]:
            yield from _objects(part, depth - 1)


def _seconds(value: object) -> float | None:
    """Read a duration as JSON may have it: 20, "20", "20s", {"seconds": 20, "nanos": 0}."""
    if isinstance(value, dict):
        value = value.get("seconds")
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return max(float(value), 0.0) if math.isfinite(value) else None
    return _moment(value) if isinstance(value, str) else None


def _of_words(words: str) -> float | None:
    stated = _STATED.search(words)
    return _duration(words[stated.end() :]) if stated else None


def _moment(text: str) -> float | None:
    """Return the seconds until a moment or of a duration: "20s", "20", "1741305600000", "2026-05-04T12:00:00Z"."""
    text = text.strip()
    if _NUMBER.fullmatch(text):
        number = float(text)
        if number >= _EPOCH * 1_000:
            number /= 1_000
        return max(number - time.time(), 0.0) if number >= _EPOCH else number
    if (wait := _duration(text)) is not None:
        return wait
    try:
        return _until(datetime.fromisoformat(text))
    except (ValueError, OverflowError):
        return None


def _duration(text: str) -> float | None:
    """Return the seconds of a duration that the text begins with."""
    found = _DURATION.match(text.strip())
    if not found:
        return None
    return sum(float(number) * _factor(unit) for number, unit in _EACH_PART.findall(found[0]))


def _factor(unit: str) -> float:
    unit = unit.lower()
    return _UNITS["ms"] if unit.startswith(("ms", "milli")) else _UNITS[unit[0]]


def _until(date: datetime) -> float:
    # "-0000" and its like parse into a date without a zone; HTTP dates are in UTC.
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max((date - datetime.now(UTC)).total_seconds(), 0.0)
