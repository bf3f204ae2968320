"""What suggestions are expected to cost is what their requests would have in them."""

import json
import math

import pytest

from executor_service.ai.expectation import BYTES_PER_TOKEN, expect
from executor_service.ai.offline import OfflineProvider
from executor_service.ai.prompts import ANSWER_SCHEMA, PROMPT
from executor_service.ai.provider import Expectation, ProductBrief

FIELDS = ["seo_title", "seo_description"]


def products(count: int) -> list[ProductBrief]:
    return [
        ProductBrief(f"gid://shop/Product/{n}", f"Kanne {n}", f"<p>Für {n} Tassen, 水差し.</p>" * (1 + n % 7))
        for n in range(1, count + 1)
    ]


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize(("count", "batch_size"), [(1, 10), (40, 10), (43, 10), (7, 1), (250, 100)])
async def test_it_is_what_the_requests_would_have_in_them(field: str, count: int, batch_size: int) -> None:
    wanted = products(count)
    read = requests = 0
    for start in range(0, count, batch_size):
        batch = [
            ProductBrief(str(number), product.title, product.description)
            for number, product in enumerate(wanted[start : start + batch_size], start=1)
        ]
        parts = (PROMPT.system_message(field), json.dumps(ANSWER_SCHEMA), PROMPT.user_message(field, batch))
        read += sum(len(part.encode()) for part in parts)
        requests += 1
    expected = await expect(PROMPT, field, wanted, products=count, batch_size=batch_size)
    assert expected.requests == requests
    assert expected.input_tokens == pytest.approx(read / BYTES_PER_TOKEN, rel=0.01)
    longest = {"seo_title": 60, "seo_description": 155}[field]
    items = [{"id": "1", "text": "x" * longest}] * count
    assert expected.output_tokens == pytest.approx(len(json.dumps(items)) / BYTES_PER_TOKEN, rel=0.05)


async def test_a_sample_stands_for_many() -> None:
    few = await expect(PROMPT, "seo_title", products(70), products=70, batch_size=10)
    many = await expect(PROMPT, "seo_title", products(70), products=200_000, batch_size=10)
    assert many.requests == 20_000
    assert many.input_tokens == pytest.approx(few.input_tokens * 200_000 / 70, rel=0.01)
    without = await expect(PROMPT, "seo_title", [], products=20, batch_size=10)  # none of the sample lacks a suggestion
    assert without.requests == 2
    assert 0 < without.input_tokens < math.inf


async def test_nothing_is_expected_of_nothing_and_of_the_offline_writer() -> None:
    assert await expect(PROMPT, "seo_title", products(3), products=0, batch_size=10) == Expectation()
    offline = OfflineProvider()
    assert await offline.expect("seo_title", products(3), products=3, batch_size=10) == Expectation()
