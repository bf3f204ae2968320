"""From the OpenAI client's exceptions to run errors."""

import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from urllib.parse import urlsplit

from openai import APIConnectionError, APIError, APIStatusError, APITimeoutError

from executor_service.ai.echoes import Echoes
from executor_service.ai.errors import AIError, AIRefusedError, AITooLongError
from executor_service.ai.openai_client import ANSWER_LIMIT
from executor_service.ai.text import cut_at_word, one_line

_QUOTE_LIMIT = 200  # characters of the provider's own message
_LOOKED_AT = 2_000  # characters of them in which echoes are looked for
_KEY_LIKE = re.compile(r"\bsk-[\w*.…-]+")

_FILTER_CODES = frozenset({"content_filter", "content_policy_violation"})
_LENGTH_CODES = frozenset({"context_length_exceeded", "string_above_max_length"})
_HOST = re.compile(r"[a-z0-9.-]{1,253}|[0-9a-f:.]{2,45}", re.IGNORECASE)
_PASSING = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT})  # like 5xx, worth repeating


def timed_out(seconds: float) -> AIError:
    """Return the error of a request that took longer than its time limit, in seconds."""
    return AIError(
        "AI_TIMEOUT",
        f"The AI provider did not answer within {seconds:g} s",
        "Retry the run later; if it stays like this, choose a faster AI_MODEL or a smaller AI_BATCH_SIZE.",
        retryable=True,
    )


def too_long() -> AIError:
    """Return the error of an answer that was not read to its end."""
    return AIError(
        "AI_INVALID_RESPONSE",
        f"The AI provider's answer is longer than {ANSWER_LIMIT // 1024**2} MB, and none of it was kept",
        "Check that OPENAI_BASE_URL is the address of a chat completions API, then retry the run.",
    )


def from_client_error(
    error: APIError, *, products: int, timeout_seconds: float, quote: Callable[[str], str]
) -> AIError:
    """Return what an exception of the OpenAI client means for a request about so many products.

    `quote` turns the provider's message into one that a person and the log may read.
    """
    if isinstance(error, APITimeoutError):  # a subclass of APIConnectionError
        return timed_out(timeout_seconds)
    if isinstance(error, APIStatusError) and error.status_code < HTTPStatus.BAD_REQUEST:
        return _redirected(error)
    if isinstance(error, APIStatusError):
        return _from_status(error, products, quote)
    if isinstance(error, APIConnectionError):
        detail = quote(str(error.__cause__ or error.message))
        return AIError(
            "AI_PROVIDER_ERROR",
            f"The AI provider could not be reached ({detail})",
            "Check OPENAI_BASE_URL and the network between the executor and the provider, then retry the run.",
            retryable=True,
        )
    return AIError(
        "AI_PROVIDER_ERROR",
        f"The AI provider's answer could not be read ({quote(error.message)})",
        "Retry the run later.",
        retryable=True,
    )


def _from_status(error: APIStatusError, products: int, quote: Callable[[str], str]) -> AIError:
    status, said = error.status_code, _said(error, quote)
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


def _redirected(error: APIStatusError) -> AIError:
    try:
        target = urlsplit(error.response.headers.get("location", ""))
        # No more of it than that: the rest may carry a password, or what it was sent.
        host, port = target.hostname or "", f":{target.port}" if target.port else ""
    except ValueError:
        host, port = "", ""
    shown = f"[{host}]" if ":" in host else host
    to = f" to {target.scheme}://{shown}{port}" if host and _HOST.fullmatch(host) else ""
    return AIError(
        "AI_PROVIDER_ERROR",
        f"The AI provider redirects to another address (HTTP {error.status_code}{to}), which is not followed",
        "Set OPENAI_BASE_URL to the final address, if product texts and the API key may go there, then retry the run.",
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


def _said(error: APIStatusError, quote: Callable[[str], str]) -> str:
    body = error.body if isinstance(error.body, dict) else {}
    for words in (body.get("message"), body.get("code")):
        said = quote(words) if isinstance(words, str) else ""
        if any(character.isalnum() for character in said):
            return f"HTTP {error.status_code}: {said}"
    # Proxies answer with pages of HTML: the status says more.
    phrase = HTTPStatus(error.status_code).phrase if error.status_code in set(HTTPStatus) else "no message"
    return f"HTTP {error.status_code}: {phrase}"


def quoting(echoes: Echoes, *, secret: str) -> Callable[[str], str]:
    """Return what quotes a provider: a line of bounded length, without the secret and without what it repeats."""

    def quote(text: str) -> str:
        text = _KEY_LIKE.sub("***", text[:_LOOKED_AT].replace(secret, "***"))
        return cut_at_word(one_line(echoes.strike(one_line(text))), _QUOTE_LIMIT, "…").rstrip(".")

    return quote
