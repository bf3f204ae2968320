"""From the OpenAI client's exceptions to run errors."""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus

from openai import APIConnectionError, APIError, APIStatusError, APITimeoutError

from executor_service.ai.errors import AIError, AIRefusedError, AITooLongError
from executor_service.ai.text import cut_at_word, one_line

_QUOTE_LIMIT = 200  # characters of the provider's own words
_KEY_LIKE = re.compile(r"\bsk-[\w*.…-]+")

_FILTER_CODES = frozenset({"content_filter", "content_policy_violation"})
_LENGTH_CODES = frozenset({"context_length_exceeded", "string_above_max_length"})
_PASSING = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT})  # like 5xx, worth repeating


def timed_out(seconds: float) -> AIError:
    """Return the error of a request that took longer than its time limit, in seconds."""
    return AIError(
        "AI_TIMEOUT",
        f"The AI provider did not answer within {seconds:g} s",
        "Retry the run later; if it stays like this, choose a faster AI_MODEL or a smaller AI_BATCH_SIZE.",
        retryable=True,
    )


def from_client_error(error: APIError, *, products: int, timeout_seconds: float, secret: str) -> AIError:
    """Return what an exception of the OpenAI client means for a request about so many products.

    The secret, should the provider echo it, is struck out.
    """
    if isinstance(error, APITimeoutError):  # a subclass of APIConnectionError
        return timed_out(timeout_seconds)
    if isinstance(error, APIStatusError):
        return _from_status(error, products, secret)
    if isinstance(error, APIConnectionError):
        detail = _quote(str(error.__cause__ or error.message), secret)
        return AIError(
            "AI_PROVIDER_ERROR",
            f"The AI provider could not be reached ({detail})",
            "Check OPENAI_BASE_URL and the network between the executor and the provider, then retry the run.",
            retryable=True,
        )
    return AIError(
        "AI_PROVIDER_ERROR",
        f"The AI provider's answer could not be read ({_quote(error.message, secret)})",
        "Retry the run later.",
        retryable=True,
    )


def _from_status(error: APIStatusError, products: int, secret: str) -> AIError:
    status, said = error.status_code, _said(error, secret)
    if error.code in _FILTER_CODES:
        return AIRefusedError(products)
    if error.code in _LENGTH_CODES:
        return AITooLongError()
    if status == HTTPStatus.TOO_MANY_REQUESTS or error.code == "insufficient_quota":
        return _rate_limited(error, said)
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return AIError(
            "AI_AUTHENTICATION_FAILED",
            f"The AI provider refused the API key ({said})",
            "Check OPENAI_API_KEY and that it may use this AI_MODEL, then retry the run.",
        )
    if status in _PASSING or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return AIError(
            "AI_PROVIDER_ERROR",
            f"The AI provider failed ({said})",
            "This is usually temporary: retry the run later.",
            retryable=True,
            retry_after_seconds=retry_after_seconds(error.response.headers),
        )
    return AIError(
        "AI_PROVIDER_ERROR",
        f"The AI provider did not accept the request ({said})",
        "Check AI_MODEL and OPENAI_BASE_URL, then retry the run.",
    )


def _rate_limited(error: APIStatusError, said: str) -> AIError:
    if error.code == "insufficient_quota":
        return AIError(
            "AI_RATE_LIMITED",
            f"The AI provider account's own quota is used up ({said})",
            "Check the account's plan and billing with the provider, then retry the run.",
        )
    wait = retry_after_seconds(error.response.headers)
    asked = "" if wait is None else f", Retry-After {wait:g} s"
    return AIError(
        "AI_RATE_LIMITED",
        f"The AI provider turned requests away as too many ({said}{asked})",
        "Retry the run in a few minutes; if it happens often, lower AI_CONCURRENCY or raise the account's limit.",
        retryable=True,
        retry_after_seconds=wait,
    )


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """Return the wait a response asks for, in seconds, or None: `retry-after-ms`, seconds or an HTTP date."""
    for name, divisor in (("retry-after-ms", 1000), ("retry-after", 1)):
        try:
            wait = float(headers[name]) / divisor
        except (KeyError, ValueError):
            continue
        return max(wait, 0.0) if math.isfinite(wait) else None
    try:
        date = parsedate_to_datetime(headers["retry-after"])
    except (KeyError, ValueError, OverflowError):
        return None
    # "-0000" and its like parse into a date without a zone; HTTP dates are in UTC.
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max((date - datetime.now(UTC)).total_seconds(), 0.0)


def _said(error: APIStatusError, secret: str) -> str:
    message = error.body.get("message") if isinstance(error.body, dict) else None
    if not isinstance(message, str) or not message.strip():
        # Proxies answer with pages of HTML: the status says more.
        message = HTTPStatus(error.status_code).phrase if error.status_code in set(HTTPStatus) else "no message"
    return f"HTTP {error.status_code}: {_quote(message, secret)}"


def _quote(text: str, secret: str) -> str:
    text = _KEY_LIKE.sub("***", text.replace(secret, "***"))
    return cut_at_word(one_line(text), _QUOTE_LIMIT, "…").rstrip(".")
