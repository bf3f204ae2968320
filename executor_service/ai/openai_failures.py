"""Turns errors of the provider and exceptions of the OpenAI client into run errors."""

import re
from collections.abc import Callable
from http import HTTPStatus
from urllib.parse import urlsplit

from openai import APIConnectionError, APIError, APIStatusError, APITimeoutError

from executor_service.ai.complaints import Complaint, body_of_error, complaint
from executor_service.ai.echoes import Echoes
from executor_service.ai.errors import AIError, AIRefusedError, AITooLongError
from executor_service.ai.openai_client import ANSWER_LIMIT
from executor_service.ai.text import cut_at_word, one_line

_QUOTE_LIMIT = 200  # characters of the provider's own message
_LOOKED_AT = 2_000  # characters of them in which echoes are looked for
_KEY_LIKE = re.compile(r"\bsk-[\w*.…-]+")
_HOST = re.compile(r"[a-z0-9.-]{1,253}|[0-9a-f:.]{2,45}", re.IGNORECASE)

_FILTER = frozenset(
    {"content_filter", "content_policy_violation", "responsibleaipolicyviolation", "data_inspection_failed"}
)
_FILTER_WORDS = re.compile(r"\bflagged as potentially violating\b|\bcontent management policy\b", re.IGNORECASE)
_LENGTH = frozenset(
    {"context_length_exceeded", "string_above_max_length", "exceed_context_size_error", "request_too_large"}
)
_LENGTH_WORDS = re.compile(
    r"(?:maximum|max(?:imum)? (?:allowed )?model|model'?s?) (?:context|input|sequence)(?: length| size| window)?|"
    r"\bmax_model_len\b|\bcontext (?:length|window|size|limit)|"
    r"\b(?:prompt|input|request|message)s? (?:is |are )?too (?:long|large)\b|"
    r"\btoo many (?:input |prompt )?tokens\b|\bexceeds? the (?:available |maximum )?(?:context|number of tokens)|"
    r"\binput (?:token|length)s? .{0,40}exceed|\breduce the length of\b",
    re.IGNORECASE,
)
_LENGTH_STATUSES = frozenset(
    {HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.INTERNAL_SERVER_ERROR}
)
# A single request above the limit of tokens a minute: no wait makes it fit.
_LARGE_WORDS = re.compile(r"\brequest too large\b", re.IGNORECASE)
_BILLING = frozenset(
    {
        *("insufficient_quota", "billing_not_active", "billing_hard_limit_reached", "billing_error"),
        *("insufficient_balance", "insufficient_credits", "insufficient_funds", "payment_required"),
        *("insufficient_user_quota", "quota_exceeded_billing", "arrearage"),
    }
)
_BILLING_WORDS = re.compile(
    r"\binsufficient (?:account )?(?:balance|credits?|funds|quota)\b|\bbilling_not_active\b|\baccount is not active\b|"
    r"\bcredit balance is too low\b|\bpayment required\b|\bout of credits\b",
    re.IGNORECASE,
)
# Flex processing: the provider has no room for it now, or the model has no such thing.
_NO_ROOM_WORDS = re.compile(r"\bresources?[ _](?:is |are )?unavailable\b", re.IGNORECASE)
_NO_TIER_WORDS = re.compile(r"\bservice[ _]tier\b|\bflex\b", re.IGNORECASE)
_RATE = frozenset({"rate_limit_exceeded", "rate_limit_error", "too_many_requests"})
_KEY = frozenset({"api_key_invalid", "invalid_api_key"})
_PASSING = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_EARLY})  # like 5xx


def timed_out(seconds: float, *, economy: bool = False) -> AIError:
    """Return the error of a request that took longer than its time limit, in seconds."""
    remedy = "create the run without meta.economy" if economy else "choose a faster AI_MODEL or a smaller AI_BATCH_SIZE"
    return AIError(
        "AI_TIMEOUT",
        f"The AI provider did not answer within {seconds:g} s",
        f"Retry the run later; if it stays like this, {remedy}.",
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
    error: APIError,
    *,
    products: int,
    timeout_seconds: float,
    quote: Callable[[str], str],
    economy: bool = False,
) -> AIError:
    """Return what an exception of the OpenAI client means for a request about so many products.

    `quote` turns the provider's message into one that a person and the log may read. `economy`: the request asked for
    flex processing.
    """
    if isinstance(error, APITimeoutError):  # a subclass of APIConnectionError
        return timed_out(timeout_seconds, economy=economy)
    if isinstance(error, APIStatusError) and error.status_code < HTTPStatus.BAD_REQUEST:
        return _redirected(error)
    if isinstance(error, APIStatusError):
        response = error.response
        said = complaint(error.status_code, response.headers, body_of_error(response.content))
        return from_complaint(said, products=products, quote=quote, economy=economy)
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


def from_complaint(  # noqa: PLR0911
    complaint: Complaint, *, products: int, quote: Callable[[str], str], economy: bool = False
) -> AIError:
    """Return what a provider's complaint means for a request about so many products."""
    status, names, said = complaint.status, complaint.names, _said(complaint, quote)
    if names & _FILTER or _FILTER_WORDS.search(complaint.words):
        return AIRefusedError(products)
    if _is_too_long(complaint):
        return AITooLongError(said)
    if _is_about_money(complaint):
        return AIError(
            "AI_RATE_LIMITED",
            f"The AI provider account's own quota is used up ({said})",
            "Check the account's plan and billing with the provider, then retry the run.",
        )
    if economy and (error := _about_economy(complaint, said)):
        return error
    if status == HTTPStatus.TOO_MANY_REQUESTS or names & _RATE:
        return _rate_limited(complaint, said)
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN) or names & _KEY:
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
            retry_after_seconds=complaint.wait_seconds,
        )
    return AIError(
        "AI_PROVIDER_ERROR",
        f"The AI provider did not accept the request ({said})",
        "Check AI_MODEL and OPENAI_BASE_URL, then retry the run.",
    )


def _is_too_long(complaint: Complaint) -> bool:
    if complaint.names & _LENGTH or complaint.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return True
    if complaint.status == HTTPStatus.TOO_MANY_REQUESTS:
        return bool(_LARGE_WORDS.search(complaint.words))
    return complaint.status in _LENGTH_STATUSES and bool(_LENGTH_WORDS.search(complaint.words))


def _is_about_money(complaint: Complaint) -> bool:
    if complaint.names & _BILLING or complaint.status == HTTPStatus.PAYMENT_REQUIRED:
        return True
    # A provider that names a wait reports a rate limit, even if its message speaks of plan and billing.
    return complaint.wait_seconds is None and bool(_BILLING_WORDS.search(complaint.words))


def _about_economy(complaint: Complaint, said: str) -> AIError | None:
    """Return what is wrong with asking for flex processing; None: it is something else."""
    if complaint.status == HTTPStatus.TOO_MANY_REQUESTS:
        if "resource_unavailable" not in complaint.names and not _NO_ROOM_WORDS.search(complaint.words):
            return None
        return AIError(
            "AI_RATE_LIMITED",
            f"The AI provider has no room for economy requests now ({said})",
            "Retry the run later, or create one without meta.economy.",
            retryable=True,
            retry_after_seconds=complaint.wait_seconds,
        )
    if complaint.status >= HTTPStatus.INTERNAL_SERVER_ERROR or not _NO_TIER_WORDS.search(complaint.words):
        return None
    return AIError(
        "AI_PROVIDER_ERROR",
        f"The AI model takes no economy requests ({said})",
        "Create the run without meta.economy, at the full price, or choose an AI_MODEL with flex processing.",
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


def _rate_limited(complaint: Complaint, said: str) -> AIError:
    wait = complaint.wait_seconds
    asked = "" if wait is None else f", to come back in {wait:g} s"
    return AIError(
        "AI_RATE_LIMITED",
        f"The AI provider turned requests away as too many ({said}{asked})",
        "Retry the run in a few minutes; if it happens often, lower AI_CONCURRENCY or raise the account's limit.",
        retryable=True,
        retry_after_seconds=wait,
    )


def _said(complaint: Complaint, quote: Callable[[str], str]) -> str:
    for words in (complaint.words, complaint.code):
        said = quote(words)
        if any(character.isalnum() for character in said):
            return f"{complaint.place}: {said}"
    # Of an HTTP 200 without a code it is not the provider's word.
    known = complaint.status in set(HTTPStatus) and (
        complaint.http_status >= HTTPStatus.BAD_REQUEST or complaint.has_status
    )
    phrase = HTTPStatus(complaint.status).phrase if known else "an error without a message"
    return f"{complaint.place}: {phrase}"


def quoting(echoes: Echoes, *, secret: str) -> Callable[[str], str]:
    """Return what quotes a provider: a line of bounded length, without the secret and without what it repeats."""

    def quote(text: str) -> str:
        text = _KEY_LIKE.sub("***", text[:_LOOKED_AT].replace(secret, "***"))
        return cut_at_word(one_line(echoes.strike(one_line(text))), _QUOTE_LIMIT, "…").rstrip(".")

    return quote
