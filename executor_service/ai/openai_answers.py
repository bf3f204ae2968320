"""Reading what a chat completion says."""

from collections.abc import Collection
from typing import Annotated, TypeVar

from pydantic import BaseModel, FailFast, Field, ValidationError

from executor_service.ai.errors import AIError, AIRefusedError, AITooLongError
from executor_service.ai.text import cut_at_word, one_line

# Far beyond any search result: a model that runs away does not fill the database.
TEXT_LIMIT = 1_000  # characters
# Two bytes of an answer may be a value, which takes 150 bytes once it is read, and a mistake, which takes a thousand.
_COMMA_LIMIT = 50_000

ModelT = TypeVar("ModelT", bound=BaseModel)


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Completion(BaseModel):
    choices: Annotated[list[_Choice], Field(min_length=1), FailFast()]


class _Item(BaseModel):
    id: str
    text: str


class _Answer(BaseModel):
    items: Annotated[list[_Item], FailFast()]


def read_answer(body: bytes, product_ids: Collection[str]) -> dict[str, str]:
    """Return the texts of a completion by product id, those of the asked products only.

    Raises `AIRefusedError` or `AITooLongError` when fewer products at a time may work, and an `AIError` when the answer
    is not what was agreed: a retryable one, unless it is far too much of it.
    """
    choice = _parse(_Completion, body, "completion").choices[0]
    if choice.finish_reason == "content_filter" or choice.message.refusal:
        raise AIRefusedError(len(product_ids))
    if choice.finish_reason == "length":
        raise AITooLongError
    answer = _parse(_Answer, choice.message.content or "", "suggestions")
    return {item.id: cut_at_word(one_line(item.text), TEXT_LIMIT) for item in answer.items if item.id in product_ids}


def _parse(model: type[ModelT], text: bytes | str, what: str) -> ModelT:
    if (text.count(b",") if isinstance(text, bytes) else text.count(",")) > _COMMA_LIMIT:
        raise _unusable(f"{what}: more values than any answer needs", retryable=False)
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        # The answer itself stays out of the message: it may be long, and anything.
        detail = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part) for part in detail["loc"]) or what
        failure = _unusable(f"{place}: {detail['msg']}")
    raise failure


def _unusable(reason: str, *, retryable: bool = True) -> AIError:
    return AIError(
        "AI_INVALID_RESPONSE",
        f"The AI provider's answer is not usable ({reason})",
        "Retry the run; if it stays like this, check that OPENAI_BASE_URL and AI_MODEL support structured outputs.",
        retryable=retryable,
    )
