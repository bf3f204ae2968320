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
    """A request to the AI provider failed; `str()` tells a person what happened and what to do next.

    `code` is the run error code. `partial` holds the texts, by product id, that arrived before the failure: they are
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
        self.partial: Mapping[str, str] = {}

    def __str__(self) -> str:
        tried = f"; gave up after {self.attempts} attempts" if self.attempts > 1 else ""
        return f"{self.problem}{tried}. {self.remedy}"


class AIBatchError(AIError):
    """The provider does not answer these products together; fewer at a time may work."""


class AIRefusedError(AIBatchError):
    """The provider's content filter refused every product of the request.

    A run that got other texts can treat these products as having no suggestion instead of failing.
    """

    def __init__(self, products: int) -> None:
        count = "the product" if products == 1 else f"all {products} products"
        super().__init__(
            "AI_INVALID_RESPONSE",
            f"The AI provider's content filter refused to write about {count} of a request",
            "Check the titles and descriptions of these products, or choose another AI_MODEL, then retry the run.",
        )


class AITooLongError(AIBatchError):
    """The provider's length limit cut the answer off."""

    def __init__(self) -> None:
        super().__init__(
            "AI_INVALID_RESPONSE",
            "The AI provider stopped at its length limit before the answer was complete, even for a single product",
            "Choose an AI_MODEL with a higher output limit, then retry the run.",
        )
