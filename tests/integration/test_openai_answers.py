"""What models and servers make of an answer: the good items are kept, the rest is asked for again."""

import json
import unicodedata
from collections.abc import Callable
from typing import Any

import pytest

from executor_service.ai.errors import AIError
from executor_service.ai.provider import SuggestionProvider
from tests.support.openai_server import Behaviour, OpenAIServer
from tests.support.suggesting import suggested, titles

NAMES = tuple("abcdefghij")
NO_ANSWER = "The AI provider gave no answer for this product."


def items(content: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(content)["items"]
    return found


def each(change: Callable[[dict[str, Any]], object]) -> Callable[[str], str]:
    return lambda content: json.dumps({"items": [change(item) for item in items(content)]})


def with_id(change: Callable[[str], object]) -> Callable[[str], str]:
    return each(lambda item: {**item, "id": change(item["id"])})


SAME_ANSWERS: dict[str, Callable[[str], object]] = {
    "fence": lambda content: f"```json\n{content}\n```",
    "fence without a language": lambda content: f"```\n{content}\n```\n",
    "words around it": lambda content: f"Here {{as you asked}} are the titles:\n\n{content}\n\nAnything else?",
    "thoughts": lambda content: f'<think>\nMaybe {{"items": []}}?\n</think>\n\n{content}',
    "thoughts that say it all": lambda content: f"<think>{content.replace('SEO', 'Draft')}</think>{content}",
    "no thoughts": lambda content: f"<think></think>\n```json\n{content}```",
    "thoughts without a beginning": lambda content: f"Let me see ...\n</think>\n{content}",
    "thoughts by another name": lambda content: f"<reasoning>[1] of {{2}}</reasoning>{content}",
    "a text part": lambda content: [{"type": "text", "text": content}],
    "text parts": lambda content: [{"type": "text", "text": content[:20]}, {"type": "text", "text": content[20:]}],
    "thoughts as a part": lambda content: [
        {"type": "thinking", "thinking": [{"type": "text", "text": "{}"}]},
        {"type": "text", "text": content},
    ],
    "parts that are texts": lambda content: [content[:20], content[20:]],
    "an object": json.loads,
    "a list of items": items,
    "only the list": lambda content: json.dumps(items(content)),
    "another name": lambda content: json.dumps({"suggestions": items(content)}),
    "an object more": lambda content: json.dumps({"answer": json.loads(content)}),
    "JSON in JSON": json.dumps,
    "items one by one": lambda content: "\n".join(json.dumps(item) for item in items(content)),
    "line breaks in texts": lambda content: content.replace("SEO title", "SEO\ntitle"),
    "a byte order mark": lambda content: f"\ufeff{content}",
    "numbers as ids": with_id(int),
    "fractions as ids": with_id(float),
    "zeros before ids": with_id(lambda id_: f"00{id_}"),
    "words before ids": with_id(lambda id_: f"Product #{id_}"),
    "wide digits": with_id(lambda id_: "".join(chr(ord(digit) + 0xFEE0) for digit in id_)),
    "NFD": lambda content: unicodedata.normalize("NFD", content),
    "capitals": with_id(str.upper),
    "no end to the list": lambda content: content[:-2],
}


@pytest.mark.parametrize("rewrite", SAME_ANSWERS.values(), ids=SAME_ANSWERS.keys())
async def test_an_answer_is_taken_however_it_is_wrapped(
    server: OpenAIServer, provider: SuggestionProvider, rewrite: Callable[[str], object]
) -> None:
    server.behave(Behaviour(rewrite=rewrite))
    answers = await provider.suggest(titles(*NAMES))
    assert (answers.texts, answers.reasons) == (suggested(*NAMES), {})
    assert server.stats().requests == 1


FIRST_IS_BAD: dict[str, Callable[[str], object]] = {
    "null": each(lambda item: {**item, "text": None} if item["text"].endswith(" A") else item),
    "a number": each(lambda item: {**item, "text": 5} if item["text"].endswith(" A") else item),
    "a list": each(lambda item: {**item, "text": [item["text"]]} if item["text"].endswith(" A") else item),
    "no text": each(lambda item: {"id": item["id"]} if item["text"].endswith(" A") else item),
    "no item": each(lambda item: None if item["text"].endswith(" A") else item),
    "a text": each(lambda item: "A" if item["text"].endswith(" A") else item),
    "no id": each(lambda item: {"text": item["text"]} if item["text"].endswith(" A") else item),
    "id null": each(lambda item: {**item, "id": None} if item["text"].endswith(" A") else item),
    "an id nobody sent": each(lambda item: {**item, "id": "99"} if item["text"].endswith(" A") else item),
    "not well-formed": lambda content: content.replace('title for A"', 'title for "A""'),
    "two texts": lambda content: json.dumps(
        {"items": [*items(content), *({**item, "text": "B or A"} for item in items(content)[:1])]}
    ),
}


@pytest.mark.parametrize("rewrite", FIRST_IS_BAD.values(), ids=FIRST_IS_BAD.keys())
async def test_the_good_items_are_kept_and_the_rest_is_asked_for_again(
    server: OpenAIServer, provider: SuggestionProvider, rewrite: Callable[[str], object]
) -> None:
    server.behave(Behaviour(rewrite=rewrite, times=1))
    assert (await provider.suggest(titles(*NAMES))).texts == suggested(*NAMES)
    assert server.stats().batches == [list(NAMES), ["a"]]


@pytest.mark.parametrize("rewrite", [FIRST_IS_BAD[name] for name in ("null", "a number", "no item")])
async def test_what_never_gets_a_text_is_done_without(
    server: OpenAIServer, provider: SuggestionProvider, rewrite: Callable[[str], object]
) -> None:
    server.behave(Behaviour(rewrite=rewrite))
    answers = await provider.suggest(titles(*NAMES))
    assert (answers.texts, answers.reasons) == (suggested(*NAMES[1:]), {"a": NO_ANSWER})
    assert server.stats().requests == 4


@pytest.mark.parametrize("finish_reason", ["stop", "length", "max_tokens", "eos"])
@pytest.mark.parametrize("where", [0.99, 0.55, 0.3, 0.02])
async def test_an_answer_that_is_cut_off_is_asked_for_in_halves(
    server: OpenAIServer, provider: SuggestionProvider, finish_reason: str, where: float
) -> None:
    server.behave(
        Behaviour(rewrite=lambda text: text[: int(len(text) * where)], finish_reason=finish_reason, more_than=4)
    )
    assert (await provider.suggest(titles(*NAMES))).texts == suggested(*NAMES)
    batches = server.stats().batches
    assert all(len(second) <= (len(NAMES) + 1) // 2 for second in batches[1:])
    assert len(batches) <= 7


async def test_thoughts_without_an_end_are_an_answer_cut_off(
    server: OpenAIServer, provider: SuggestionProvider
) -> None:
    server.behave(Behaviour(rewrite=lambda _: "<think>One, two, ", more_than=5))
    assert (await provider.suggest(titles(*NAMES))).texts == suggested(*NAMES)
    assert server.stats().batches == [list(NAMES), list("abcde"), list("fghij")]


async def test_a_model_that_answers_one_product_a_request_gets_through(
    server: OpenAIServer, provider: SuggestionProvider
) -> None:
    server.behave(Behaviour(rewrite=lambda content: json.dumps({"items": items(content)[:1]})))
    assert (await provider.suggest(titles(*NAMES))).texts == suggested(*NAMES)


async def test_a_product_that_spoils_every_answer_is_found(server: OpenAIServer, provider: SuggestionProvider) -> None:
    server.behave(Behaviour(rewrite=lambda _: "I would rather not.", product_ids=["d"]))
    answers = await provider.suggest(titles(*NAMES))
    assert answers.texts == suggested(*(name for name in NAMES if name != "d"))
    assert "not usable" in answers.reasons["d"]


async def test_a_single_product_is_known_by_any_id(server: OpenAIServer, provider: SuggestionProvider) -> None:
    server.behave(Behaviour(rewrite=with_id(lambda _: "the mug")))
    assert (await provider.suggest(titles("a"))).texts == suggested("a")


@pytest.mark.parametrize("rewrite", [lambda _: "No.", lambda _: '{"items": []}', lambda _: None, lambda _: []])
async def test_a_model_that_writes_nothing_usable_is_not_asked_for_long(
    server: OpenAIServer, provider: SuggestionProvider, rewrite: Callable[[str], object]
) -> None:
    server.behave(Behaviour(rewrite=rewrite))
    with pytest.raises(AIError, match="after 4 attempts") as caught:
        await provider.suggest(titles(*NAMES))
    assert caught.value.code == "AI_INVALID_RESPONSE"
    assert server.stats().requests <= 8
