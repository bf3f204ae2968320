"""Metrics as Prometheus reads them."""

import asyncio
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

# By the name and the labels of a sample.
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Scrape:
    """What a process served."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self.samples: Samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families.values()
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float:
        """Return the value of a sample; 0 when there is none."""
        return self.samples.get((name, frozenset(labels.items())), 0.0)

    def labels(self, name: str) -> set[frozenset[str]]:
        """Return the names of the labels that the samples of a metric have."""
        return {frozenset(key for key, _ in labels) for sample, labels in self.samples if sample == name}


async def scrape(port: int) -> Scrape:
    """Return what the process at this port of 127.0.0.1 serves."""

    def read() -> str:
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
            return str(answer.read().decode())

    return Scrape(await asyncio.to_thread(read))
