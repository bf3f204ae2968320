"""Reading what a chat completion says."""

from collections.abc import Collection
from typing import Annotated, TypeVar

from pydantic import BaseModel, FailFast, Field, ValidationError

from executor_service.ai.errors import AIError, AIRefusedError, AITooLongError
from executor_service.ai.text import cut_at_word, one_line

# Far beyond any search result: a model that runs away does not fill the database.
TEXT_LIMIT = 1_000  # characters
_CONTENT_LIMIT = 10_000  # characters a product; without it, and without FailFast, 4 MB of small mistakes take 1.2 GB

ModelT = TypeVar("ModelT", bound=BaseModel)


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Completion(BaseModel):
    choices: Annotated[list[_Choice], Field(min_length=1, max_length=100), FailFast()]


class _Item(BaseModel):
    id: str
    text: str


class _Answer(BaseModel):
    items: Annotated[list[_Item], FailFast()]


def read_answer(body: bytes, product_ids: Collection[str]) -> dict[str, str]:
    """Return the texts of a completion by product id, those of the asked products only.

    Raises `AIRefusedError` or `AITooLongError` when fewer products at a time may work, and a retryable `AIError` when
    the answer is not what was agreed.
    """
    choice = _parse(_Completion, body, "completion").choices[0]
    if choice.finish_reason == "content_filter" or choice.message.refusal:
        raise AIRefusedError(len(product_ids))
    if choice.finish_reason == "length":
        raise AITooLongError
    content = choice.message.content or ""
    if len(content) > _CONTENT_LIMIT * (len(product_ids) + 1):
        raise _unusable(f"{len(content):,} characters for {len(product_ids)} products")
    answer = _parse(_Answer, content, "suggestions")
    return {item.id: cut_at_word(one_line(item.text), TEXT_LIMIT) for item in answer.items if item.id in product_ids}


def _parse(model: type[ModelT], text: bytes | str, what: str) -> ModelT:
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        # The answer itself stays out of the message: it may be long, and anything.
        detail = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part) for part in detail["loc"]) or what
        failure = _unusable(f"{place}: {detail['msg']}")
    raise failure


def _unusable(reason: str) -> AIError:
    return AIError(
        "AI_INVALID_RESPONSE",
        f"The AI provider's answer is not usable ({reason})",
        "Retry the run; if it stays like this, check that OPENAI_BASE_URL and AI_MODEL support structured outputs.",
        retryable=True,
    )
