"""Suggestions without any AI: the product's own words, put into shape."""

import asyncio
import re
from collections.abc import Iterator, Sequence

from executor_service.ai.provider import Answers, Expectation, ProductBrief, SuggestionRequest
from executor_service.ai.text import cut_at_sentence, cut_at_word, one_line, text_blocks
from servicekit.background.breathing import breathing

# What search engines show before they cut.
TITLE_LENGTH = 60
DESCRIPTION_LENGTH = 155
_SHORT_DESCRIPTION = 70

# The marks before a clause's last one are not tried again from each of them.
_CLAUSE_END = re.compile(
    r"(?<![.!?;:,…|•·])[.!?;:,…|•·]++(?:\s|$)|[。！？、，]|\s[–—-]+\s|\s(?:and|with|that|which|while|so)\s"
)
_ARTICLE = re.compile(r"^(?:an?|the|d[ae]s|de[nr]|die|eine?|l[ae]s?|une?)\s+", re.IGNORECASE)
_UNENDING = "\"'”’»)]%°″"
_WORD = re.compile(r"\w+")

# A clause that opens or ends like this says nothing by itself.
_WEAK_OPENER = re.compile(
    r"(?:aber|all|also|and|any\w*|are|as|at|because|but|can|each|et|every\w*|ha[ds]|have|here?|his|how|i|if|in|is|it|its|"
    r"just|mais|more|my|no|not|of|on|one|or|our|she|some\w*|that|their|there|these|they|this|those|to|und|was|we|were|wh\w+|will|"
    r"your?)\b",
    re.IGNORECASE,
)
_WEAK_ENDING = re.compile(
    r"\b(?:an?|and|at|by|for|from|in|into|is|of|on|or|the|to|together|with|without|your)$", re.IGNORECASE
)


class OfflineProvider:
    """Writes deterministic texts from a product's title and description. Needs no key and never fails."""

    model = "offline-template"
    prompt_version = "1"  # raise it when the same product would get another text

    async def suggest(self, request: SuggestionRequest) -> Answers:
        """Return a text for every product, "" for products without a title."""
        write = {"seo_title": write_title, "seo_description": write_description}[request.field]
        # Nothing here waits: this gives heartbeats and cancellations their turn between two batches.
        await asyncio.sleep(0)
        return Answers({product.product_id: write(product) async for product in breathing(request.products)})

    async def expect(
        self, field: str, sample: Sequence[ProductBrief], *, products: int, batch_size: int
    ) -> Expectation:
        """Return that nothing is asked of anybody."""
        return Expectation()

    async def close(self) -> None:
        """Do nothing: there is nothing to give back."""


def write_title(product: ProductBrief) -> str:
    """Return the title with the first meaningful clause of the description that fits, at most 60 characters."""
    title = cut_at_word(one_line(product.title), TITLE_LENGTH)
    if not title:
        return ""
    room = TITLE_LENGTH - len(f"{title} – ")
    return next((f"{title} – {hook}" for hook in _hooks(product) if len(hook) <= room), title)


def write_description(product: ProductBrief) -> str:
    """Return the description as whole sentences where possible, at most 155 characters."""
    title = one_line(product.title)
    if not title:
        return ""
    text = " ".join(_sentences(product.description))
    if not text:
        text = f"{title}: pictures, details and price at a glance."
    elif len(text) < _SHORT_DESCRIPTION and title.casefold() not in text.casefold():
        text = f"{title}: {text}"
    return cut_at_sentence(text, DESCRIPTION_LENGTH)


def _sentences(html: str) -> Iterator[str]:
    # List items and headings rarely end in a full stop; without one they would run into each other.
    return (f"{block}." if block[-1].isalnum() or block[-1] in _UNENDING else block for block in text_blocks(html))


def _hooks(product: ProductBrief) -> Iterator[str]:
    known = _words(product.title)
    for block in text_blocks(product.description):
        for clause in _CLAUSE_END.split(block):
            hook = _ARTICLE.sub("", clause.strip())
            news = _words(hook) - known
            weak = _WEAK_OPENER.match(hook) or _WEAK_ENDING.search(hook)
            if len(news) >= 2 and len(hook.split()) <= 6 and not weak:
                yield hook[0].upper() + hook[1:]


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.casefold()))
