"""The OpenAI provider with the real client against a real HTTP server: what it makes of answers and failures."""

from typing import Any

import pytest

from executor_service.ai.errors import AIError, AIRefusedError
from executor_service.ai.factory import DEFAULT_MODEL
from executor_service.ai.prompts import PROMPT
from executor_service.ai.provider import ProductBrief, SuggestionProvider, SuggestionRequest
from tests.support.openai_server import Behaviour, OpenAIServer
from tests.support.suggesting import FOREVER, Build, Waits, suggested, titles


async def test_all_products_of_a_request_are_asked_for_at_once(
    server: OpenAIServer, provider: SuggestionProvider
) -> None:
    assert (await provider.suggest(titles("a", "b", "c"))).texts == suggested("a", "b", "c")
    assert server.stats().batches == [["a", "b", "c"]]
    assert (provider.model, provider.prompt_version) == (DEFAULT_MODEL, PROMPT.version)


async def test_descriptions_are_asked_for_as_such(server: OpenAIServer, provider: SuggestionProvider) -> None:
    request = SuggestionRequest("seo_description", [ProductBrief("a", "Mug", "")])
    assert (await provider.suggest(request)).texts == {"a": "SEO description for Mug"}


async def test_no_products_need_no_request(server: OpenAIServer, provider: SuggestionProvider) -> None:
    assert (await provider.suggest(titles())).texts == {}
    assert server.stats().requests == 0


async def test_missing_products_alone_are_asked_for_again(server: OpenAIServer, provider: SuggestionProvider) -> None:
    server.behave(Behaviour(answer="missing", product_ids=["b", "d"], times=1))
    assert (await provider.suggest(titles("a", "b", "c", "d"))).texts == suggested("a", "b", "c", "d")
    assert server.stats().batches == [["a", "b", "c", "d"], ["b", "d"]]


async def test_products_that_were_not_in_the_request_are_ignored(
    server: OpenAIServer, provider: SuggestionProvider
) -> None:
    server.behave(Behaviour(answer="unknown_ids"))
    assert (await provider.suggest(titles("a", "b"))).texts == suggested("a", "b")


async def test_a_blank_text_is_an_answer(server: OpenAIServer, provider: SuggestionProvider) -> None:
    server.behave(Behaviour(answer="blank", product_ids=["b"]))
    assert (await provider.suggest(titles("a", "b"))).texts == {**suggested("a"), "b": ""}
    assert server.stats().requests == 1


async def test_texts_are_one_clean_line(server: OpenAIServer, provider: SuggestionProvider) -> None:
    request = SuggestionRequest("seo_title", [ProductBrief("a", "漢字 “é”", ""), ProductBrief("b", "x" * 2_000, "")])
    texts = (await provider.suggest(request)).texts
    assert texts["a"] == "SEO title for 漢字 “é”"
    assert len(texts["b"]) < 1_000


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 429},
        {"status": 500},
        {"status": 503},
        {"status": 409},
        {"answer": "hang_up"},
        {"answer": "not_json"},
        {"answer": "wrong_schema"},
        {"answer": "broken_body"},
        {"answer": "no_choices"},
    ],
    ids=str,
)
async def test_a_passing_fault_is_repeated_away(
    server: OpenAIServer, provider: SuggestionProvider, waits: Waits, fault: dict[str, Any]
) -> None:
    server.behave(Behaviour(times=2, **fault))
    assert (await provider.suggest(titles("a", "b"))).texts == suggested("a", "b")
    assert server.stats().batches == [["a", "b"]] * 3
    assert waits == [0.25, 0.5]


# Failures


AUTH, RATE, BROKEN, INVALID = (
    "AI_AUTHENTICATION_FAILED",
    "AI_RATE_LIMITED",
    "AI_PROVIDER_ERROR",
    "AI_INVALID_RESPONSE",
)


LASTING_FAULTS: list[tuple[dict[str, Any], str, int, str]] = [
    ({"status": 401}, AUTH, 1, r"refused the API key \(HTTP 401: .*\)\. Check OPENAI_API_KEY"),
    ({"status": 403}, AUTH, 1, r"refused the API key \(HTTP 403: .*\)\. Check OPENAI_API_KEY"),
    ({"status": 429}, RATE, 4, r"as too many \(HTTP 429: .*\); gave up after 4 attempts\. Retry the run in a few"),
    ({"status": 429, "retry_after": "7"}, RATE, 4, r"to come back in 7 s\); gave up after 4 attempts"),
    ({"status": 429, "error_code": "insufficient_quota"}, RATE, 1, r"used up \(HTTP 429: .*plan and billing"),
    ({"status": 400}, BROKEN, 1, r"did not accept the request \(HTTP 400: This is a made-up Bad Request\)"),
    ({"status": 404, "error_message": "no model x"}, BROKEN, 1, r"\(HTTP 404: no model x\)\. Check AI_MODEL"),
    ({"status": 422}, BROKEN, 1, r"\(HTTP 422: "),
    ({"status": 409}, BROKEN, 4, r"\(HTTP 409: .* after 4 attempts"),
    ({"status": 500}, BROKEN, 4, r"failed \(HTTP 500: .*\); gave up after 4 attempts\. .* retry the run later"),
    ({"status": 503}, BROKEN, 4, r"\(HTTP 503: .* after 4 attempts"),
    ({"answer": "hang_up"}, BROKEN, 4, r"could not be reached \(.*\); gave up .*Check OPENAI_BASE_URL"),
    ({"answer": "broken_body"}, INVALID, 6, r"not usable \(completion: no JSON.* after 4 attempts"),
    ({"answer": "no_choices"}, INVALID, 6, r"not usable \(choices: .* after 4 attempts"),
    (
        {"answer": "not_json"},
        INVALID,
        6,
        r"not usable \(suggestions: there is no JSON in it\); gave up",
    ),
    ({"answer": "wrong_schema"}, INVALID, 6, r"left out 2 of 2 products; gave up after 4 attempts"),
    ({"answer": "content_filter"}, INVALID, 3, r"content filter refused to write about all 2 products"),
    ({"answer": "refusal"}, INVALID, 3, r"content filter refused to write about all 2 products"),
    ({"status": 400, "error_code": "content_filter"}, INVALID, 3, r"content filter refused to write about all 2"),
    ({"answer": "length"}, INVALID, 3, r"length limit .*even for a single product\. Choose an AI_MODEL"),
]


@pytest.mark.parametrize(
    ("fault", "code", "requests", "message"), LASTING_FAULTS, ids=[str(case[0]) for case in LASTING_FAULTS]
)
async def test_a_lasting_fault_ends_with_its_code_and_says_what_to_do(
    server: OpenAIServer, provider: SuggestionProvider, fault: dict[str, Any], code: str, requests: int, message: str
) -> None:
    server.behave(Behaviour(**fault))
    with pytest.raises(AIError, match=message) as caught:
        await provider.suggest(titles("a", "b"))
    assert caught.value.code == code
    assert len(str(caught.value)) < 500
    assert server.stats().requests == requests


async def test_a_provider_that_never_answers_times_out(server: OpenAIServer, build: Build) -> None:
    server.behave(Behaviour(delay_seconds=FOREVER))
    with pytest.raises(AIError, match=r"did not answer within 0\.5 s; gave up after 4 attempts\.") as caught:
        await build(timeout_seconds=0.5).suggest(titles("a"))
    assert caught.value.code == "AI_TIMEOUT"
    await server.wait_for(lambda stats: stats.requests == 4)


async def test_a_provider_that_is_not_there(build: Build, waits: Waits) -> None:
    with OpenAIServer() as gone:
        pass
    with pytest.raises(AIError, match=r"could not be reached .* after 4 attempts.* Check OPENAI_BASE_URL") as caught:
        await build(base_url=gone.base_url).suggest(titles("a"))
    assert caught.value.code == "AI_PROVIDER_ERROR"
    assert waits == [0.25, 0.5, 1.0]


async def test_a_page_of_html_is_not_quoted(server: OpenAIServer, provider: SuggestionProvider) -> None:
    server.behave(Behaviour(status=502, error_message=" "))
    with pytest.raises(AIError, match=r"\(HTTP 502: Bad Gateway\)"):
        await provider.suggest(titles("a"))


async def test_long_messages_of_the_provider_are_cut(server: OpenAIServer, provider: SuggestionProvider) -> None:
    server.behave(Behaviour(status=400, error_message="very " * 1_000))
    with pytest.raises(AIError) as caught:
        await provider.suggest(titles("a"))
    assert len(str(caught.value)) < 400


async def test_texts_that_arrived_before_a_failure_are_handed_over(
    server: OpenAIServer, provider: SuggestionProvider
) -> None:
    server.behave(Behaviour(answer="missing", product_ids=["b"], times=1), Behaviour(status=401))
    with pytest.raises(AIError, match="refused the API key") as caught:
        await provider.suggest(titles("a", "b", "c"))
    assert caught.value.partial == suggested("a", "c")


# Batches that the provider does not answer together


async def test_a_product_that_is_never_answered_has_a_reason(
    server: OpenAIServer, provider: SuggestionProvider
) -> None:
    server.behave(Behaviour(answer="missing", product_ids=["b"]))
    answers = await provider.suggest(titles("a", "b", "c"))
    assert answers.texts == suggested("a", "c")
    assert answers.reasons == {"b": "The AI provider gave no answer for this product."}
    assert server.stats().batches == [["a", "b", "c"], ["b"], ["b"], ["b"]]


async def test_one_refused_product_does_not_spoil_the_others(
    server: OpenAIServer, provider: SuggestionProvider
) -> None:
    server.behave(Behaviour(answer="content_filter", product_ids=["c"]))
    answers = await provider.suggest(titles("a", "b", "c", "d"))
    assert answers.texts == suggested("a", "b", "d")
    assert answers.reasons == {"c": "The AI provider's content filter refused to write about this product."}
    assert server.stats().batches == [["a", "b", "c", "d"], ["a", "b"], ["c", "d"], ["c"], ["d"]]


async def test_a_request_refused_altogether_can_be_distinguished_from_other_failures(
    server: OpenAIServer, provider: SuggestionProvider
) -> None:
    server.behave(Behaviour(answer="content_filter"))
    with pytest.raises(AIRefusedError, match="refused to write about the product of a request"):
        await provider.suggest(titles("a"))


async def test_an_answer_that_is_too_long_is_asked_for_in_halves(
    server: OpenAIServer, provider: SuggestionProvider
) -> None:
    server.behave(Behaviour(answer="length", more_than=2))
    assert (await provider.suggest(titles(*"abcde"))).texts == suggested(*"abcde")
    assert server.stats().batches == [list("abcde"), ["a", "b"], ["c", "d", "e"], ["c"], ["d", "e"]]
