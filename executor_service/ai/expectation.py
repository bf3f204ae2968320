"""What asking for suggestions would cost, before anything is asked."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from executor_service.ai.prompts import ANSWER_SCHEMA, Prompt
from executor_service.ai.provider import Expectation, ProductBrief

# Of UTF-8. English has about four characters to a token, scripts of three bytes a character about one: bytes come
# closer than characters do.
BYTES_PER_TOKEN: Final = 4
TEXT_LENGTHS: Final[Mapping[str, int]] = {
    "seo_title": 60,
    "seo_description": 155,
}  # as the prompt wants them
_ITEM: Final = len('{"id":"10","text":""},')  # an answer's bytes for each product besides its text


async def expect(
    prompt: Prompt, field: str, sample: Sequence[ProductBrief], *, products: int, batch_size: int
) -> Expectation:
    """Return what suggestions for so many `products` cost, `batch_size` with a request, if they are like the `sample`.

    A request is counted as it would be sent: instructions, schema and the products in the prompt's own form.
    """
    if not products:
        return Expectation()
    requests = math.ceil(products / batch_size)
    numbered = [replace(product, product_id=str(number % batch_size + 1)) for number, product in enumerate(sample)]
    empty = _bytes(prompt.user_message(field, ()))
    each = (_bytes(await prompt.user_message_in_turns(field, numbered)) - empty) / max(len(numbered), 1)
    fixed = _bytes(prompt.system_message(field)) + _bytes(json.dumps(ANSWER_SCHEMA)) + empty
    return Expectation(
        requests,
        input_tokens=math.ceil((requests * fixed + products * each) / BYTES_PER_TOKEN),
        output_tokens=math.ceil(products * (TEXT_LENGTHS[field] + _ITEM) / BYTES_PER_TOKEN),
    )


def _bytes(text: str) -> int:
    return len(text.encode(errors="replace"))
