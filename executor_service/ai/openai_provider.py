"""Suggestions by an OpenAI model, or by any server that speaks its chat completions protocol.

Importing this module imports the OpenAI package, which takes a second: `factory` does so only when it is needed.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import urlsplit

from httpx2 import Response
from openai import APIError, AsyncOpenAI
from pydantic import SecretStr

from executor_service.ai.complaints import complains, complaint
from executor_service.ai.echoes import Echoes
from executor_service.ai.errors import AIBatchError, AIError, AIRefusedError, AIUnusableError
from executor_service.ai.expectation import expect
from executor_service.ai.limiter import RequestLimiter
from executor_service.ai.metrics import CANCELLED, INTERNAL_ERROR, NO_ROOM, AIMetrics
from executor_service.ai.openai_answers import read_body, read_completion
from executor_service.ai.openai_client import AnswerTooLongError, OpenAIClient
from executor_service.ai.openai_failures import from_client_error, from_complaint, quoting, timed_out, too_long
from executor_service.ai.openai_usage import tokens_of
from executor_service.ai.prompts import ANSWER_SCHEMA, PROMPT
from executor_service.ai.provider import Answers, Expectation, ProductBrief, SuggestionRequest
from executor_service.ai.retry import RetryPolicy
from servicekit.telemetry.tracing import Attributes, Kind, Span, child

logger = logging.getLogger(__name__)

_LONERS: Final = 2  # products that got nothing alone, while none got a text: the others would not fare better

_RESPONSE_FORMAT: Final = {
    "type": "json_schema",
    "json_schema": {"name": "suggestions", "strict": True, "schema": ANSWER_SCHEMA},
}


@dataclass(frozen=True, slots=True)
class Tier:
    """How requests of one price are sent."""

    limiter: RequestLimiter
    timeout_seconds: float  # for each request, not counting the wait for a slot
    retry: RetryPolicy
    service_tier: str = ""  # OpenAI's name for it; "": the account's default, and nothing is said about it


class OpenAIProvider:
    """Asks for several products a request, repeats what failed, and asks again for what is missing."""

    prompt_version = PROMPT.version

    def __init__(
        self,
        *,
        model: str,
        api_key: SecretStr,
        base_url: str,
        standard: Tier,
        economy: Tier,
        metrics: AIMetrics,
        reasoning_effort: str | None = None,
    ) -> None:
        self.model = model
        self._api_key = api_key
        self._standard = standard
        self._economy = economy
        self._metrics = metrics
        metrics.expect(model)
        self._reasoning_effort = reasoning_effort
        # Of spans, by the conventions for generative AI. Neither prompts nor answers: they are product texts.
        self._attributes: Attributes = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": model,
            "server.address": urlsplit(base_url).hostname or "",
        }
        self._client = AsyncOpenAI(
            api_key=api_key.get_secret_value(),
            base_url=base_url,
            timeout=standard.timeout_seconds,
            max_retries=0,
            http_client=OpenAIClient(),
        )

    async def suggest(self, request: SuggestionRequest) -> Answers:
        """Return a text for every product of the request, or the reason why there is none.

        Raises `AIBatchError` when there is none for any of them, `AIError` for every failure that is not about these
        products; the texts that arrived are in its `partial`.
        """
        patience = request.patience_seconds
        batch = _Batch(request, until=None if patience is None else self._tier(request).retry.clock() + patience)
        try:
            await self._fill(batch, request.products)
            if batch.failure and not batch.texts:
                raise batch.failure
        except AIError as error:
            error.partial = batch.texts
            raise
        return Answers(batch.texts, batch.reasons)

    async def expect(
        self, field: str, sample: Sequence[ProductBrief], *, products: int, batch_size: int
    ) -> Expectation:
        """Return what suggestions would take, if every request is answered well."""
        return await expect(PROMPT, field, sample, products=products, batch_size=batch_size)

    async def close(self) -> None:
        """Close the connections to the provider."""
        await self._client.close()

    def _tier(self, request: SuggestionRequest) -> Tier:
        return self._economy if request.economy else self._standard

    async def _fill(self, batch: "_Batch", products: Sequence[ProductBrief], *, again: bool = True) -> None:
        """Get texts or reasons for the products. Without `again` an answer that is no good is not asked for anew."""

        tries = 0

        async def ask_for_missing() -> None:
            nonlocal tries
            try:
                if missing := batch.missing(products):
                    tries += 1
                    if tries > 1:
                        self._metrics.retried(self.model)
                    await self._ask(batch, missing)
            except AIBatchError as error:
                error.retryable = error.retryable and again
                raise

        try:
            await self._tier(batch.request).retry.run(ask_for_missing, until=batch.until)
        except AIBatchError as error:
            missing = batch.missing(products)
            if len(missing) > 1:
                # One product may spoil the answer for all: halving isolates it in few requests.
                batch.failure = batch.failure or error
                half = len(missing) // 2
                again = again and error.attempts == 1
                await self._fill(batch, missing[:half], again=again)
                await self._fill(batch, missing[half:], again=again)
            elif error.progress:  # it was not asked for alone yet
                await self._fill(batch, missing, again=again)
            else:
                batch.give_up(missing, error)

    async def _ask(self, batch: "_Batch", products: Sequence[ProductBrief]) -> None:
        """Take in what the provider says of these products. Raises AIBatchError when some of them have no text yet."""
        # Numbers of our own: no model takes one for a word to be corrected, and they cost a token each.
        sent = {str(number): product for number, product in enumerate(products, start=1)}
        async with self._tier(batch.request).limiter.slot(batch.request.project_id):
            started = time.monotonic()
            outcome = INTERNAL_ERROR
            try:
                with child(f"chat {self.model}", Kind.CLIENT, self._attributes) as span:
                    answer = await self._complete(
                        batch.request, [replace(product, product_id=number) for number, product in sent.items()], span
                    )
                reading = read_completion(answer, list(sent))
                outcome = reading.failure.code if reading.failure else "OK"
            except AIError as error:
                outcome = NO_ROOM if batch.request.economy and error.turned_away else error.code
                raise
            except asyncio.CancelledError:
                outcome = CANCELLED
                raise
            finally:
                self._metrics.requested(self.model, outcome, time.monotonic() - started)
        batch.texts |= {sent[number].product_id: text for number, text in reading.texts.items()}
        logger.debug(
            "AI request: %d of %d suggestions from %s in %.2f s",
            len(reading.texts),
            len(products),
            self.model,
            time.monotonic() - started,
        )
        if reading.failure:
            reading.failure.progress = bool(reading.texts)
            raise reading.failure

    async def _complete(
        self, request: SuggestionRequest, products: Sequence[ProductBrief], span: Span
    ) -> Mapping[str, Any]:
        """Return the provider's completion about `products`, which are of the request.

        Raises AIError, also where an answer of status 200 has an error in it.
        """
        system = PROMPT.system_message(request.field)
        user = await PROMPT.user_message_in_turns(request.field, products)
        body: dict[str, object] = {
            "model": self.model,
            "messages": [{"role": "system", "content": system}, {"role": "user", "content": user}],
            "response_format": _RESPONSE_FORMAT,
        }
        if self._reasoning_effort:
            body["reasoning_effort"] = self._reasoning_effort
        tier = self._tier(request)
        if tier.service_tier:
            body["service_tier"] = tier.service_tier

        def quote(text: str) -> str:
            echoes = Echoes(prompt=system, products=user, known=self.model)
            return quoting(echoes, secret=self._api_key.get_secret_value())(text)

        if request.usage:
            request.usage.sent()
        try:
            # The client's own time limit starts anew with every byte received; this one does not.
            async with asyncio.timeout(tier.timeout_seconds):
                # Not chat.completions.create: it takes any JSON for a completion, and a third more CPU time.
                response = await self._client.post(
                    "/chat/completions", cast_to=Response, body=body, options={"timeout": tier.timeout_seconds}
                )
            answer = read_body(response.content)
            if isinstance(answer, dict):  # an answer is paid for, even one that is not usable
                tokens = tokens_of(answer)
                self._metrics.used(self.model, tokens, economy=request.economy)
                span.set({"gen_ai.usage.input_tokens": tokens.input, "gen_ai.usage.output_tokens": tokens.output})
                if request.usage:
                    request.usage.answered(
                        input_tokens=tokens.input, cached_input_tokens=tokens.cached_input, output_tokens=tokens.output
                    )
            if isinstance(answer, dict) and not complains(answer):
                return answer
            if not complains(answer):
                raise AIUnusableError("completion: no JSON object")
            said = complaint(response.status_code, response.headers, answer)
            failure = from_complaint(said, products=len(products), quote=quote, economy=request.economy)
        except TimeoutError:
            failure = timed_out(tier.timeout_seconds, economy=request.economy)
        except AnswerTooLongError:
            failure = too_long()
        except APIError as error:
            failure = from_client_error(
                error,
                products=len(products),
                timeout_seconds=tier.timeout_seconds,
                quote=quote,
                economy=request.economy,
            )
        # Outside of the except blocks: a provider may echo the key or a product, and a chained exception would log it.
        raise failure


@dataclass
class _Batch:
    """What is known so far about the products of one request."""

    request: SuggestionRequest
    until: float | None  # by the retry policy's clock: when the answers are of no use any more
    texts: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    failure: AIBatchError | None = None  # the first of a whole request, or of a product alone

    def missing(self, products: Sequence[ProductBrief]) -> list[ProductBrief]:
        return [one for one in products if one.product_id not in self.texts and one.product_id not in self.reasons]

    def give_up(self, products: Sequence[ProductBrief], error: AIBatchError) -> None:
        """Do without texts for these products. Raises the failure of all when it is no single product's fault."""
        self.reasons.update((product.product_id, error.reason) for product in products)
        if not self.failure or (self.failure.attempts == 1 and not isinstance(self.failure, AIRefusedError)):
            self.failure = error  # the last to say what happens to a product alone
        if not self.texts and len(self.reasons) >= _LONERS and not isinstance(error, AIRefusedError):
            raise self.failure
