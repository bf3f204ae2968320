"""The provider that the settings ask for."""

import logging
from dataclasses import replace
from functools import partial
from typing import Final, Literal
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from executor_service.ai.environment import VARIABLES, require_usable_environment
from executor_service.ai.limiter import RequestLimiter
from executor_service.ai.metrics import AIMetrics
from executor_service.ai.offline import OfflineProvider
from executor_service.ai.provider import SuggestionProvider
from executor_service.ai.retry import RetryPolicy
from servicekit.config.settings import is_loopback

logger = logging.getLogger(__name__)

DEFAULT_MODEL: Final = "gpt-6-luna"
ECONOMY_PAUSE: Final = 60.0  # seconds at most between two looks for room, which may take hours
DEFAULT_BASE_URL: Final = "https://api.openai.com/v1"


def build_provider(
    *,
    provider: Literal["openai", "offline"] | None = None,
    model: str | None = None,
    api_key: SecretStr | None = None,
    base_url: str | None = None,
    concurrency: int = 16,
    timeout_seconds: float = 60.0,
    economy_timeout_seconds: float = 900.0,
    retry: RetryPolicy | None = None,
    metrics: AIMetrics | None = None,
) -> SuggestionProvider:
    """Return the process's provider. Without `provider`: openai if there is a key, else offline, with a warning.

    `concurrency` bounds the requests under way at once, `timeout_seconds` each of them. Economy requests have as many
    places of their own, since they may take `economy_timeout_seconds`. Empty strings count as unset.
    Without `metrics` nobody reads what it counts.
    Raises `ValueError`, naming the variable, when openai is chosen and its settings cannot work.
    """
    key = api_key.get_secret_value().strip() if api_key else ""
    if provider is None and not key:
        logger.warning(
            "No OPENAI_API_KEY: suggestions are put together from the product's own text, without AI. "
            "Set OPENAI_API_KEY to have them written by a model, or AI_PROVIDER=offline to choose this knowingly."
        )
    if provider == "offline" or (provider is None and not key):
        return OfflineProvider()
    if not key:
        raise ValueError("OPENAI_API_KEY is not set, but AI_PROVIDER=openai needs it (AI_PROVIDER=offline does not)")
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise ValueError("OPENAI_API_KEY contains blanks or characters that no API key has")
    base_url = base_url or DEFAULT_BASE_URL
    if not _is_http(base_url):
        raise ValueError("OPENAI_BASE_URL must be http://HOST[:PORT]/... or https://HOST[:PORT]/...")
    _warn_of_address(base_url)

    require_usable_environment()
    from executor_service.ai.openai_provider import OpenAIProvider, Tier

    model = model or DEFAULT_MODEL
    retry = retry or RetryPolicy()
    build = partial(
        OpenAIProvider,
        model=model,
        api_key=SecretStr(key),
        base_url=base_url,
        standard=Tier(RequestLimiter(concurrency), timeout_seconds, retry),
        economy=Tier(
            RequestLimiter(concurrency),
            economy_timeout_seconds,
            replace(retry, cap_seconds=ECONOMY_PAUSE),
            service_tier="flex",
        ),
        metrics=metrics or AIMetrics(CollectorRegistry(), {}),
        # The default model reasons for seconds about a title unless this forbids it; others may not know it.
        reasoning_effort="none" if model == DEFAULT_MODEL else None,
    )
    try:
        return build()
    except Exception as error:  # out of what the HTTP client makes of the environment; its words may quote a URL
        raise ValueError(
            f"the client of the AI provider cannot be made ({type(error).__name__}): {VARIABLES}"
        ) from None


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, half an IPv6 address
        return False


def _warn_of_address(url: str) -> None:
    """Say what the address gives away; it may be meant so. Neither line repeats any of it."""
    parts = urlsplit(url)
    if parts.scheme == "http" and not is_loopback(f"{parts.hostname}:{parts.port or 80}"):
        logger.warning(
            "OPENAI_BASE_URL begins with http:// and leads to another machine: product texts and the API key go there "
            "unencrypted. Use https://, unless that network is yours alone."
        )
    if parts.username or parts.password:
        logger.warning(
            "OPENAI_BASE_URL carries a user name or a password: they are sent to the provider in the place of "
            "OPENAI_API_KEY. Take them out of it, unless the provider asks for them."
        )
