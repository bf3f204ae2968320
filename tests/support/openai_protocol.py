"""OpenAI's chat completions protocol as the made-up server speaks it: what it accepts and what it answers."""

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from string import Template
from typing import Any

from tests.support.openai_attacks import ATTACKS

API_KEY = "sk-test-0123456789abcdef"
ANSWERS = frozenset(
    {
        "ok",
        "missing",  # leaves out `product_ids`, or the last product
        "blank",  # blanks as text of `product_ids`, or of all
        "unknown_ids",  # one item more, of a product nobody asked about
        "not_json",  # a completion whose content is no JSON
        "wrong_schema",  # a completion whose content is other JSON
        "broken_body",  # a body that is no JSON
        "no_choices",  # JSON that is no completion
        "content_filter",
        "refusal",
        "length",  # cut off in the middle
        "hang_up",  # closes the connection instead of answering
        "packed",  # a good answer, in gzip
        *ATTACKS,
    }
)


@dataclass(frozen=True)
class Behaviour:
    """What the server does with the requests that this applies to; by default it answers well and at once."""

    answer: str = "ok"
    status: int = 200  # anything else is answered with an error
    error_code: str | None = None
    error_message: str | None = None  # $system, $user and $titles in it stand for what came with the request
    headers: Mapping[str, str] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)  # by product: what to write instead
    rewrite: Callable[[str], object] | None = None  # from the good answer's content to the one that is given
    finish_reason: str | None = None  # instead of the answer's own
    body: object = None  # the whole body: a text as it is, anything else as JSON
    retry_after: str | None = None  # the header, as it is
    delay_seconds: float = 0.0
    times: int | None = None  # only the next so many requests
    product_ids: Sequence[str] = ()  # names of products: only requests for one of these
    more_than: int = 0  # only requests for more products than this

    def __post_init__(self) -> None:
        if self.answer not in ANSWERS:
            raise ValueError(f"answer is {self.answer!r}; one of {', '.join(sorted(ANSWERS))} is needed")

    def applies_to(self, product_ids: Sequence[str]) -> bool:
        wanted = not self.product_ids or not set(self.product_ids).isdisjoint(product_ids)
        return wanted and self.times != 0 and len(product_ids) > self.more_than


@dataclass(frozen=True)
class Asked:
    field: str
    products: list[dict[str, str]]
    model: str
    system: str
    user: str
    tier: str  # "": none was named

    @property
    def names(self) -> list[str]:
        """The products as tests know them: by the article number in their description, else by their title."""
        return [name_of(product) for product in self.products]


_ARTICLE = re.compile(r"Article (\S+)")


def name_of(product: Mapping[str, str]) -> str:
    """Return what tests know a product by: executors send short ids of their own."""
    article = _ARTICLE.search(product["description"])
    return article[1] if article else product["title"]


@dataclass
class Stats:
    """What happened since the start or the last reset."""

    requests: int = 0  # completions asked for, refused ones included
    in_flight: int = 0
    max_in_flight: int = 0
    aborted: int = 0  # the client went away before its answer
    statuses: dict[str, int] = field(default_factory=Counter)
    rejected: list[str] = field(default_factory=list)  # why requests were no proper ones
    batches: list[list[str]] = field(default_factory=list)  # the products of each request, in order of arrival
    asked: dict[str, int] = field(default_factory=Counter)  # by product
    answered: dict[str, int] = field(default_factory=Counter)  # by product: texts given
    tiers: dict[str, int] = field(default_factory=Counter)  # requests by service tier; "": none was named


class Rejected(Exception):
    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


def read_request(method: str, headers: dict[str, str], body: bytes, api_key: str) -> Asked:
    authorization = headers.get("authorization", "")
    if authorization != f"Bearer {api_key}":
        # Echoing the key is what a careless gateway does; it must not get from here into messages and logs.
        raise Rejected(401, f"Incorrect API key provided: {authorization.removeprefix('Bearer ')}.", "invalid_api_key")
    _expect(method == "POST", f"{method} instead of POST")
    _expect(headers.get("content-type") == "application/json", "the content type is not application/json")
    try:
        request = json.loads(body)
        wanted = request["response_format"]["json_schema"]
        system, user = request["messages"]
        document = json.loads(user["content"])
        products = document["products"]
        ids = [product["id"] for product in products]
    except (ValueError, KeyError, TypeError) as error:
        raise Rejected(400, f"The request lacks something: {error!r}") from None
    _expect(isinstance(request["model"], str) and request["model"], "no model")
    _expect(not request.get("stream"), "streaming is not asked for here")
    _expect(request["response_format"]["type"] == "json_schema", "response_format is not json_schema")
    _expect(wanted.get("strict") is True, "the schema is not strict")
    _expect(re.fullmatch(r"[\w-]{1,64}", wanted.get("name", "")), "the schema has no proper name")
    _check_strict(wanted["schema"])
    item = wanted["schema"]["properties"]["items"]["items"]
    _expect(set(item["properties"]) == {"id", "text"}, "an item is an id and a text")
    _expect(system["role"] == "system" and system["content"].strip(), "the first message is not the system's")
    _expect(user["role"] == "user", "the second message is not the user's")
    _expect(document["field"] in {"seo_title", "seo_description"}, "the field is neither seo_title nor seo_description")
    _expect(ids and all(isinstance(id_, str) and id_ for id_ in ids), "no products, or products without an id")
    _expect(all(len(id_) <= len(str(len(ids))) for id_ in ids), "ids that are longer than they need be")
    _expect(len(set(ids)) == len(ids), "the same product twice")
    _expect(all(set(product) == {"id", "title", "description"} for product in products), "not what a product is")
    tier = request.get("service_tier", "")
    _expect(tier in {"", "flex"}, "a service tier that is not asked for here")
    return Asked(document["field"], products, request["model"], system["content"], user["content"], tier)


def _check_strict(schema: dict[str, Any]) -> None:
    """OpenAI's rule for strict schemas: all properties required, no others allowed, at every level."""
    if schema["type"] == "object":
        _expect(schema.get("additionalProperties") is False, "additionalProperties is not false")
        _expect(set(schema.get("required", ())) == set(schema["properties"]), "not every property is required")
        for part in schema["properties"].values():
            _check_strict(part)
    elif schema["type"] == "array":
        _check_strict(schema["items"])


def _expect(condition: object, problem: str) -> None:
    if not condition:
        raise Rejected(400, f"Invalid request: {problem}")


def completion_of(behaviour: Behaviour, asked: Asked) -> tuple[dict[str, Any], list[str]]:
    """Return the completion and the products that got a text."""
    what = {"seo_title": "SEO title", "seo_description": "SEO description"}[asked.field]
    names = {product["id"]: name_of(product) for product in asked.products}
    texts = {product["id"]: f"{what} for {product['title']}" for product in asked.products}
    texts |= {id_: behaviour.texts[name] for id_, name in names.items() if name in behaviour.texts}
    affected = {id_ for id_, name in names.items() if name in behaviour.product_ids}
    finish_reason, refusal = "stop", None
    match behaviour.answer:
        case "missing":
            texts = {id_: text for id_, text in texts.items() if id_ not in (affected or list(names)[-1:])}
        case "blank":
            texts = {id_: " \n" if id_ in (affected or texts) else text for id_, text in texts.items()}
        case "unknown_ids":
            texts["nobody-asked"] = "SEO title for nothing"
        case "content_filter" | "length" as finish_reason:
            pass
        case "refusal":
            refusal = "I'm sorry, I can't help with that."
    items = [{"id": id_, "text": text} for id_, text in texts.items()]
    content: object = {
        "not_json": "Sure! Here are your titles:",
        "wrong_schema": json.dumps({"items": [{"id": 1, "title": "no text"}]}),
        "content_filter": "",
        "length": '{"items": [{"id": "',
    }.get(behaviour.answer, json.dumps({"items": items}))
    if behaviour.rewrite and content is not None:
        content = behaviour.rewrite(content)
    complete = finish_reason == "stop" and not refusal and behaviour.answer not in {"not_json", "wrong_schema"}
    given = [name for id_, name in names.items() if texts.get(id_, "").strip()] if complete else []
    message = {"role": "assistant", "content": None if refusal else content, "refusal": refusal}
    choice = {"index": 0, "message": message, "logprobs": None}
    choice["finish_reason"] = behaviour.finish_reason or finish_reason
    completion = {
        "id": "chatcmpl-made-up",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": asked.model,
        "choices": [choice],
        "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
    }
    if behaviour.answer == "no_choices":
        completion["choices"], given = [], []
    return completion, given


def error_message(behaviour: Behaviour, asked: Asked, otherwise: str) -> str:
    titles = " / ".join(product["title"] for product in asked.products)
    message = Template(behaviour.error_message or otherwise)
    return message.safe_substitute(system=asked.system, user=asked.user, titles=titles)


def error_body(message: str, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "made_up_error", "param": None, "code": code}}
