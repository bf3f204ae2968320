"""A provider with OpenAI's protocol, in a process of its own."""

import json
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.harness import durable_stack
from benchmarks.harness.worker import Worker
from devstack.ports import free_ports
from devstack.stack import Stack
from tests.support.openai_protocol import API_KEY

MODEL = "made-up"


class Provider(Worker):
    """`tests.support.openai_server`, which answers each request after `delay` seconds; enter it like any worker."""

    def __init__(self, log: Path, *, delay: float) -> None:
        (self.port,) = free_ports(1)
        arguments = ("--port", str(self.port), "--delay-seconds", str(delay))
        super().__init__(
            "tests.support.openai_server", *arguments, log=log, ready=lambda text: text.startswith("ready")
        )

    @property
    def settings(self) -> dict[str, str]:
        """The environment of an executor that asks this provider."""
        return {
            "AI_PROVIDER": "openai",
            "AI_MODEL": MODEL,
            "OPENAI_API_KEY": API_KEY,
            "OPENAI_BASE_URL": f"http://127.0.0.1:{self.port}/v1",
        }

    def behave(self, *behaviours: dict[str, Any]) -> None:
        """From now on the first behaviour (see tests.support.openai_protocol) that applies to a request decides."""
        self._call("POST", "/control", behaviours)

    def reset(self) -> None:
        """Forget all behaviours and counts."""
        self._call("POST", "/reset")

    def stats(self) -> dict[str, Any]:
        """Return what happened since the last reset. Fails when a request was refused."""
        return self._call("GET", "/stats")

    def _call(self, method: str, path: str, body: Sequence[Any] | None = None) -> dict[str, Any]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", method=method, data=json.dumps(body or []).encode()
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            found: dict[str, Any] = json.load(answer)
        return found


@contextmanager
def stack_with_provider(*, delay: float, **executor: str) -> Iterator[tuple[Stack, Provider]]:
    """Enter a durable stack whose executor, with these further settings, asks a provider of its own."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        Provider(Path(folder, "provider.log"), delay=delay) as provider,
        durable_stack(executor_env={**provider.settings, **executor}) as stack,
    ):
        yield stack, provider
