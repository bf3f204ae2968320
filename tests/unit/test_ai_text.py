import asyncio
import time

import pytest

from executor_service.ai.offline import OfflineProvider, write_title
from executor_service.ai.prompts import PROMPT
from executor_service.ai.provider import ProductBrief, SuggestionRequest
from executor_service.ai.text import cut_at_sentence, cut_at_word, one_line, text_blocks
from tests.support.processor import least_seconds


@pytest.mark.parametrize(
    ("html", "blocks"),
    [
        ("", []),
        ("just text,\n on two lines", ["just text, on two lines"]),
        ("<p>One <b>bold</b> word</p><p>Two</p>", ["One bold word", "Two"]),
        ("one<br>two<BR/>three<hr />four", ["one", "two", "three", "four"]),
        ("<ul><li>a</li><li>b</ul><header>c</header>", ["a", "b", "c"]),
        ("<table><tr><td>Width</td><td>3 cm</td></tr><tr><td>Depth</td></tr></table>", ["Width 3 cm", "Depth"]),
        ("a<!-- <p>no</p> -->b<style>p{}</style>c<SCRIPT>if (1<2) '<p>'</SCRIPT >d", ["abcd"]),
        ("seen<script>never closed <p>hidden", ["seen"]),
        ("<img alt=\"a > b\" src='x>y'>text", ["text"]),
        ("<p don't>text</p>", ["text"]),
        ("cut in the middle of <a href='htt", ["cut in the middle of"]),
        ("3 < 5 & 7 > 6, I <3 it", ["3 < 5 & 7 > 6, I <3 it"]),
        ("Salt &amp; pepper&nbsp;&ndash; &eacute;&#233;&#xE9; &lt;b&gt;", ["Salt & pepper – ééé <b>"]),
        ("&bogus; &#0; &#" + "9" * 5_000, ["&bogus; � �" + "9" * 4_993]),
        ("null\x00 and \ud800 half", ["null and half"]),
    ],
)
def test_markup_becomes_lines_of_visible_text(html: str, blocks: list[str]) -> None:
    assert text_blocks(html) == blocks


@pytest.mark.parametrize(
    "part",
    [
        "a",
        ".",
        "<",
        "<!",
        "<!--",
        "<a ",
        "<a b='",
        "</",
        "&#",
        "<a/",
        "<script>",
        "</script",
        "<p>x",
        "x.",
        "![",
        "![](data:",
        "![a](data:x ",
    ],
)
@pytest.mark.parametrize(("before", "after"), [("", ""), ("<", "<")], ids=["plain", "in a tag"])
def test_no_description_takes_long_to_read(before: str, part: str, after: str) -> None:
    description = before + (part * 20_000)[:19_998] + after
    product = ProductBrief("p", "Thing", description)
    assert least_seconds(lambda: write_title(product)) < 1  # html.parser needs up to seven seconds


@pytest.mark.parametrize("kind", ["img", "script", "style", "svg", "markdown"])
def test_a_picture_before_the_words_does_not_hide_them(kind: str) -> None:
    picture = "QUJD" * 15_000
    before = {
        "img": f'<p><img src="data:image/png;base64,{picture}"></p>',
        "script": f"<script>var x = '{picture}'</script>",
        "style": f"<style>p {{ background: url(data:image/png;base64,{picture}) }}</style>",
        "svg": f'<svg><path d="{picture}"/></svg>',
        "markdown": f"![a mug](data:image/png;base64,{picture})\n",
    }[kind]
    assert text_blocks(f"{before}<p>Hand-thrown mug</p>") == ["Hand-thrown mug"]
    assert "Hand-thrown" in write_title(ProductBrief("p", "Mug", f"{before}<p>Hand-thrown stoneware</p>"))
    assert sum(map(len, text_blocks("<b>" + "word " * 13_000))) <= 20_000


@pytest.mark.parametrize("part", ["<td>", "<p>x", "<a b='", "<", "<!--", "&#", "<a/", "</script"])
async def test_ten_of_the_largest_descriptions_keep_no_other_task_waiting(part: str) -> None:
    products = [ProductBrief(str(number), "Thing", (part * 65_536)[:65_536]) for number in range(10)]
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    for work in (
        PROMPT.user_message_in_turns("seo_title", products),
        OfflineProvider().suggest(SuggestionRequest("seo_title", products, "p")),
    ):
        beside = asyncio.create_task(other())
        started = time.thread_time()
        turns = 0
        await work
        # One turn between two products at least, where they take long.
        assert turns >= min(8, (time.thread_time() - started) // 0.05)
        beside.cancel()


def test_one_line_keeps_visible_characters() -> None:
    assert one_line(" a\t\tb\r\nc\u00a0d 漢字 🌱 ") == "a b c d 漢字 🌱"


@pytest.mark.parametrize(
    ("text", "limit", "expected"),
    [
        ("short", 10, "short"),
        ("exactly ten", 11, "exactly ten"),
        ("one two three", 11, "one two"),
        ("one two, three", 10, "one two"),
        ("onetwothree", 5, "onetw"),
        ("", 5, ""),
    ],
)
def test_a_cut_leaves_whole_words(text: str, limit: int, expected: str) -> None:
    assert cut_at_word(text, limit) == expected


def test_a_cut_prefers_whole_sentences() -> None:
    assert cut_at_sentence("One two. Three four five.", 20) == "One two. Three four…"
    assert cut_at_sentence("One two. Three four five.", 16) == "One two."
    assert cut_at_sentence("Costs 3.50 in all shops.", 20) == "Costs 3.50 in all…"
    assert cut_at_sentence("三四五六七。二三。", 6) == "三四五六七。"
    assert cut_at_sentence("三四五六七。", 5) == "三四五六…"
