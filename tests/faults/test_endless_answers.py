"""Answers of an AI provider that are meant to fill the executor's memory: it holds no more than a few of them."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.executor import Bench
from tests.support.executor_process import ExecutorProcess
from tests.support.openai_attacks import ATTACKS
from tests.support.openai_protocol import Behaviour
from tests.support.openai_server import OpenAIServer

MB = 1024 * 1024
GROWTH = 100 * MB  # two requests at once, each with 4 MB of an answer in a few shapes; unbounded it takes gigabytes


@pytest.fixture
def executor(executor_database: str, openai: OpenAIServer, tmp_path: Path) -> Iterator[ExecutorProcess]:
    with ExecutorProcess(executor_database, openai, tmp_path / "log") as executor:
        yield executor


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_no_answer_makes_the_executor_grow(executor: ExecutorProcess, openai: OpenAIServer, bench: Bench) -> None:
    await bench.stock(20)
    openai.behave(Behaviour(status=400))
    await executor.run()  # what is loaded and filled the first time is in there now
    before = executor.memory("VmRSS")
    executor.forget_most()
    for attack in ATTACKS.keys() - {"headers", "interim"}:
        for status in (200, 400):
            openai.behave(Behaviour(answer=attack, status=status))
            event = await executor.run()
            assert event.error_code in {"AI_INVALID_RESPONSE", "AI_PROVIDER_ERROR"}, attack
            grown = executor.memory("VmHWM") - before
            assert grown < GROWTH, f"{attack}: {grown / MB:.0f} MB"
