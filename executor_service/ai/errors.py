"""What can go wrong between the executor and an AI provider."""

from collections.abc import Mapping
from typing import Literal

AIErrorCode = Literal[
    "AI_AUTHENTICATION_FAILED",
    "AI_RATE_LIMITED",
    "AI_TIMEOUT",
    "AI_PROVIDER_ERROR",
    "AI_INVALID_RESPONSE",
]


class AIError(Exception):
    """A request to the AI provider failed; `str()` says for a person what happened and what to do next.

    `code` is the run error code. `partial` are the texts, by product id, that arrived before the failure: they are
    paid for and worth keeping.
    """

    def __init__(
        self,
        code: AIErrorCode,
        problem: str,
        remedy: str,
        *,
        retryable: bool = False,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(problem)
        self.code: AIErrorCode = code
        self.problem = problem
        self.remedy = remedy
        self.retryable = retryable
        self.retry_after_seconds = retry_after_seconds
        self.attempts = 1
        self.too_late = False  # it may be repeated, and the run's deadline comes first
        self.progress = False  # a part of the answer arrived
        self.partial: Mapping[str, str] = {}

    @property
    def turned_away(self) -> bool:
        """Whether the provider takes the request later, as it is: worth waiting for as long as the run may last."""
        return self.retryable and self.code == "AI_RATE_LIMITED"

    def __str__(self) -> str:
        tried = f"; gave up after {self.attempts} attempts" if self.attempts > 1 else ""
        late = "; the run's deadline comes before the next attempt" if self.too_late else ""
        return f"{self.problem}{tried}{late}. {self.remedy}"


class AIBatchError(AIError):
    """The provider does not answer these products together; fewer at a time may work.

    A product that it does not answer alone either has no suggestion: `reason` says why, as a sentence. The run fails
    only when no other product got a text.
    """

    def __init__(self, problem: str, remedy: str, *, reason: str, retryable: bool = False) -> None:
        super().__init__("AI_INVALID_RESPONSE", problem, remedy, retryable=retryable)
        self.reason = reason


class AIRefusedError(AIBatchError):
    """The provider's content filter refused every product of the request."""

    def __init__(self, products: int) -> None:
        count = "the product" if products == 1 else f"all {products} products"
        super().__init__(
            f"The AI provider's content filter refused to write about {count} of a request",
            "Check the titles and descriptions of these products, or choose another AI_MODEL, then retry the run.",
            reason="The AI provider's content filter refused to write about this product.",
        )


class AICutOffError(AIBatchError):
    """The answer ends before it is complete. With `repeat` the same request may end otherwise."""

    def __init__(self, *, repeat: bool = False) -> None:
        super().__init__(
            "The AI provider stopped at its length limit before the answer was complete, even for a single product",
            "Choose an AI_MODEL with a higher output limit, then retry the run.",
            reason="The AI provider cut its answer about this product off.",
            retryable=repeat,
        )


class AITooLongError(AIBatchError):
    """The request is more than the model reads. `said` are the provider's words."""

    def __init__(self, said: str) -> None:
        super().__init__(
            f"The AI provider takes no request as long as this, even with a single product ({said})",
            "Choose an AI_MODEL with a larger context, or give the model's server one, then retry the run.",
            reason="The text of this product is too long for the AI model.",
        )


class AIUnusableError(AIBatchError):
    """The answer does not have the agreed form."""

    def __init__(self, why: str) -> None:
        super().__init__(
            f"The AI provider's answer is not usable ({why})",
            "Retry the run; if it stays like this, check that OPENAI_BASE_URL and AI_MODEL support structured outputs.",
            reason=f"The AI provider's answer about this product was not usable ({why}).",
            retryable=True,
        )


class AIUnansweredError(AIBatchError):
    """The answer has the agreed form, and no text for some of the products."""

    def __init__(self, missing: int, asked: int) -> None:
        super().__init__(
            f"The AI provider's answer left out {missing} of {asked} products",
            "Retry the run: it asks only for what is missing. If it stays like this, choose another AI_MODEL.",
            reason="The AI provider gave no answer for this product.",
            retryable=True,
        )
