"""Suggestions by an OpenAI model, or by any server that speaks its chat completions protocol.

Importing this module imports the OpenAI package, which takes a second: `factory` does so only when it is needed.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from openai import APIError, AsyncOpenAI
from pydantic import SecretStr

from executor_service.ai.echoes import Echoes
from executor_service.ai.errors import AIBatchError, AIError, AIRefusedError
from executor_service.ai.limiter import RequestLimiter
from executor_service.ai.openai_answers import read_answer
from executor_service.ai.openai_client import AnswerTooLongError, OpenAIClient
from executor_service.ai.openai_failures import from_client_error, quoting, timed_out, too_long
from executor_service.ai.prompts import ANSWER_SCHEMA, PROMPT_VERSION, system_message, user_message
from executor_service.ai.provider import ProductBrief, SuggestionRequest
from executor_service.ai.retry import RetryPolicy

logger = logging.getLogger(__name__)

_RESPONSE_FORMAT: Final = {
    "type": "json_schema",
    "json_schema": {"name": "suggestions", "strict": True, "schema": ANSWER_SCHEMA},
}


class OpenAIProvider:
    """Asks for several products a request, repeats what failed, and asks again for what is missing."""

    prompt_version = PROMPT_VERSION

    def __init__(
        self,
        *,
        model: str,
        api_key: SecretStr,
        base_url: str,
        limiter: RequestLimiter,
        retry: RetryPolicy,
        timeout_seconds: float,  # for each request, not counting the wait for a slot
        reasoning_effort: str | None = None,
    ) -> None:
        self.model = model
        self._api_key = api_key
        self._limiter = limiter
        self._retry = retry
        self._timeout_seconds = timeout_seconds
        self._reasoning_effort = reasoning_effort
        self._client = AsyncOpenAI(
            api_key=api_key.get_secret_value(),
            base_url=base_url,
            timeout=timeout_seconds,
            max_retries=0,
            http_client=OpenAIClient(),
        )

    async def suggest(self, request: SuggestionRequest) -> dict[str, str]:
        """Return a text for every product of the request, by product id.

        A product that the provider's content filter refuses gets "". Raises `AIRefusedError` when it refuses all of
        them, `AIError` for every other failure; the texts that arrived are in its `partial`.
        """
        batch = _Batch(request)
        try:
            await self._fill(batch, request.products)
            if request.products and not batch.texts:
                raise AIRefusedError(len(request.products))
        except AIError as error:
            error.partial = batch.texts
            raise
        return {product.product_id: batch.texts.get(product.product_id, "") for product in request.products}

    async def close(self) -> None:
        """Close the connections to the provider."""
        await self._client.close()

    async def _fill(self, batch: "_Batch", products: Sequence[ProductBrief]) -> None:
        async def ask_for_missing() -> None:
            if missing := batch.missing(products):
                batch.texts |= await self._ask(batch.request, missing)
            if missing := batch.missing(products):
                raise _incomplete(len(missing), len(products))

        try:
            await self._retry.run(ask_for_missing)
        except AIBatchError as error:
            missing = batch.missing(products)
            if len(missing) > 1:
                # One product may spoil the answer for all: halving isolates it in few requests.
                half = len(missing) // 2
                await self._fill(batch, missing[:half])
                await self._fill(batch, missing[half:])
            elif isinstance(error, AIRefusedError):
                batch.refused.update(product.product_id for product in missing)
            else:
                raise

    async def _ask(self, request: SuggestionRequest, products: Sequence[ProductBrief]) -> dict[str, str]:
        async with self._limiter.slot(request.project_id):
            started = time.monotonic()
            body = await self._complete(request.field, products)
        texts = read_answer(body, {product.product_id for product in products})
        logger.debug(
            "AI request: %d of %d suggestions from %s in %.2f s",
            len(texts),
            len(products),
            self.model,
            time.monotonic() - started,
        )
        return texts

    async def _complete(self, suggestion_field: str, products: Sequence[ProductBrief]) -> bytes:
        system, user = system_message(suggestion_field), user_message(suggestion_field, products)
        body: dict[str, object] = {
            "model": self.model,
            "messages": [{"role": "system", "content": system}, {"role": "user", "content": user}],
            "response_format": _RESPONSE_FORMAT,
        }
        if self._reasoning_effort:
            body["reasoning_effort"] = self._reasoning_effort
        try:
            # The client's own time limit starts anew with every byte received; this one does not.
            async with asyncio.timeout(self._timeout_seconds):
                # Not chat.completions.create: it takes any JSON for a completion, and a third more CPU time.
                return await self._client.post("/chat/completions", cast_to=bytes, body=body)
        except TimeoutError:
            failure = timed_out(self._timeout_seconds)
        except AnswerTooLongError:
            failure = too_long()
        except APIError as error:
            failure = from_client_error(
                error,
                products=len(products),
                timeout_seconds=self._timeout_seconds,
                quote=quoting(
                    Echoes(prompt=system, products=user, known=self.model), secret=self._api_key.get_secret_value()
                ),
            )
        # Outside of the except blocks: a provider may echo the key or a product, and a chained exception would log it.
        raise failure


@dataclass
class _Batch:
    """What is known so far about the products of one request."""

    request: SuggestionRequest
    texts: dict[str, str] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)

    def missing(self, products: Sequence[ProductBrief]) -> list[ProductBrief]:
        done = self.texts.keys() | self.refused
        return [product for product in products if product.product_id not in done]


def _incomplete(missing: int, asked: int) -> AIError:
    return AIError(
        "AI_INVALID_RESPONSE",
        f"The AI provider's answer left out {missing} of {asked} products",
        "Retry the run: it asks only for what is missing. If it stays like this, lower AI_BATCH_SIZE or choose another "
        "AI_MODEL.",
        retryable=True,
    )
