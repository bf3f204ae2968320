"""Hostile answers of an AI provider on their way through runs, and through the executor as a process."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from playbooks.runs.v1.run_pb2 import PlaybookRules, Run

from executor_service.ai.provider import Answers, SuggestionRequest
from tests.support.executor import Bench, ScriptedProvider
from tests.support.executor_process import ExecutorProcess
from tests.support.openai_protocol import Behaviour
from tests.support.openai_server import OpenAIServer


class WritingProvider(ScriptedProvider):
    """Writes what it is given, by product id."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: dict[str, str] = {}

    async def suggest(self, request: SuggestionRequest) -> Answers:
        self.requests += 1
        return Answers({product.product_id: self.texts[product.product_id] for product in request.products})


@pytest.fixture
def writer() -> WritingProvider:
    return WritingProvider()


@pytest.fixture
async def shop(executor_database: str, writer: WritingProvider) -> AsyncIterator[Bench]:
    async with Bench(executor_database, provider=writer) as bench, bench.working():
        yield bench


UNCLEAN = {
    "00000": ("<b>Enamel</b> mug<script>alert(1)</script>", "Enamel mug"),
    "00001": ("&lt;img src=x onerror=alert(1)&gt;Tea &amp; mug", "Tea & mug"),
    "00002": ("Price \u202e5 < 6\u2069\u200b", "Price 5 < 6"),
    "00003": ("\u200b\u2800\u3000\u3164", ""),
    "00004": ("<p>&#8203;</p>", ""),
}
CLEAN = {product_id: expected for product_id, (_, expected) in UNCLEAN.items()}


async def test_what_a_provider_writes_is_cleaned_before_it_is_stored(shop: Bench, writer: WritingProvider) -> None:
    await shop.stock(len(UNCLEAN))
    writer.texts = {product_id: text for product_id, (text, _) in UNCLEAN.items()}
    preview = await shop.preview(sample=10)
    assert preview.result == {"affected_total": 5, "draft_generated": 3, "no_suggestion_count": 2}
    items = (await shop.latest_draft()).items
    assert {item.product_id: item.raw_suggestion for item in items} == CLEAN
    assert {item.product_id: item.final_suggestion for item in items} == CLEAN
    stored = {text for (text,) in await shop.rows("SELECT text FROM executor.suggestions")}
    assert stored == set(CLEAN.values()) - {""}
    assert await shop.ai_used() == 3
    await shop.applied(await shop.draft(preview))
    assert await shop.titles() == CLEAN


async def test_what_an_older_version_stored_is_cleaned_before_it_is_used(shop: Bench, writer: WritingProvider) -> None:
    await shop.stock(len(UNCLEAN))
    writer.texts = {product_id: f"Title {product_id}" for product_id in UNCLEAN}
    await shop.preview(sample=10)
    for product_id, (text, _) in UNCLEAN.items():
        await shop.rows(
            "UPDATE executor.suggestions SET text = %(text)s WHERE text = %(was)s RETURNING 1",
            text=text,
            was=f"Title {product_id}",
        )
    requests = writer.requests
    preview = await shop.preview(sample=10)
    assert writer.requests == requests
    assert not preview.ai_used
    assert {item.product_id: item.raw_suggestion for item in (await shop.latest_draft()).items} == CLEAN


async def test_rules_bring_in_markup_that_is_meant_and_nothing_unseen(shop: Bench, writer: WritingProvider) -> None:
    await shop.stock(2)
    writer.texts = {"00000": "<i>Mug</i>", "00001": "n/a"}
    rules = PlaybookRules(enabled=True, prefix="<3 \u202e", suffix=" &\u200b co\x1b")
    rules.find_replace.find, rules.find_replace.replace = "n/a", "\u200b\u3000"
    preview = await shop.preview(rules=rules)
    assert preview.result == {"affected_total": 2, "draft_generated": 1, "no_suggestion_count": 1}
    finals = [item.final_suggestion for item in (await shop.latest_draft()).items]
    assert finals == ["<3 Mug & co ", "\u3000"]


async def test_a_field_that_shows_nothing_is_missing(shop: Bench) -> None:
    await shop.stock(0)
    for number, title in enumerate(["", "\u3000", "\u200b\ufeff", "\u2800\u3164", "\u202e", "x", "漢", "\u200bx"]):
        await shop.put(str(number), seo_title=title)
    affected = await shop.catalog.products("p", "missing_seo_title", limit=100, page_token="")
    assert [product.id for product in affected.rows] == ["0", "1", "2", "3", "4"]


# The executor as a process


@pytest.fixture
def openai() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


@pytest.fixture
def executor(executor_database: str, openai: OpenAIServer, tmp_path: Path) -> Iterator[ExecutorProcess]:
    with ExecutorProcess(executor_database, openai, tmp_path / "log") as executor:
        yield executor


async def test_neither_log_nor_run_repeats_texts_prompt_or_key(
    executor: ExecutorProcess, openai: OpenAIServer, bench: Bench
) -> None:
    await bench.stock(0)
    await bench.put("p", title="Velvet Übermug QX7731", description="<p>Hand-thrown in Zwiesel, 山小屋マグカップ.</p>")
    markers = ("velvet", "bermug", "qx7731", "thrown", "zwiesel", "小屋", "metadata that search", openai.api_key)
    everything = f"$system $user $titles {openai.api_key}"
    answers: list[dict[str, Any]] = [
        {"status": 400, "error_message": everything},
        {"status": 401, "error_message": f"$titles {everything}"},
        {"status": 404, "error_message": "$titles", "error_code": "QX7731"},
        {"status": 307, "headers": {"location": "https://other.example/QX7731?title=Velvet"}},
        {"status": 500, "error_message": "$user", "times": 2},  # and then a good answer
    ]
    shown = []
    for answer in answers:
        openai.behave(Behaviour(**answer))
        event = await executor.run()
        shown.append(f"{event.error_code} {event.error_message}")
    assert event.status == Run.SUCCEEDED, event
    logged = executor.log()
    lines = [json.loads(line) for line in logged.splitlines()]
    assert sum("AI request failed" in line["message"] for line in lines) == 1  # once a minute
    assert not any("exception" in line for line in lines)
    for text in (logged, *shown, json.dumps(lines, ensure_ascii=False)):
        assert [marker for marker in markers if marker in text.casefold()] == []
    assert "HTTP 307 to https://other.example)" in shown[3]
