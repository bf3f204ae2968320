"""The executor's AI client alone: the requests of a draft, and nothing of a run."""

import asyncio
import time
from typing import Any

from pydantic import SecretStr

from benchmarks.harness.load import receive, send
from executor_service.ai.factory import build_provider
from executor_service.ai.provider import ProductBrief, SuggestionRequest


async def ask(spec: dict[str, Any]) -> dict[str, float]:
    """Ask for `products`, `batch` in a request, `concurrency` requests at once."""
    provider = build_provider(
        provider="openai",
        model=spec["model"],
        api_key=SecretStr(spec["api_key"]),
        base_url=spec["base_url"],
        concurrency=spec["concurrency"],
        timeout_seconds=60.0,
    )
    briefs = [ProductBrief(*product) for product in spec["products"]]
    requests = iter([briefs[start : start + spec["batch"]] for start in range(0, len(briefs), spec["batch"])])
    texts: dict[str, str] = {}

    async def some() -> None:
        for products in requests:
            texts.update((await provider.suggest(SuggestionRequest("seo_title", products, "alone"))).texts)

    await provider.suggest(SuggestionRequest("seo_title", briefs[:1], "alone"))  # imports, the first connection
    started, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(some() for _ in range(spec["concurrency"])))
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    await provider.close()
    if len(texts) != len(briefs) or not all(texts.values()):
        raise RuntimeError(f"{len(texts)} texts for {len(briefs)} products")
    return {"seconds": seconds, "cpu": cpu}


if __name__ == "__main__":
    send(asyncio.run(ask(receive())))
