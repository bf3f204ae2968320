"""The AI provider's key is in no error and in no log, even if the provider echoes it."""

import logging
import traceback

import pytest
from pydantic import SecretStr

from executor_service.ai.errors import AIError
from executor_service.ai.provider import SuggestionProvider
from tests.support.openai_server import Behaviour, OpenAIServer
from tests.support.suggesting import Build, titles


def everything_shown(error: BaseException, caplog: pytest.LogCaptureFixture) -> str:
    """All that a person or a log gets to see of a failure."""
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("executor_service")]
    return "\n".join([*traceback.format_exception(error), repr(error), *ours])


@pytest.mark.parametrize("key", ["sk-wrong-0123456789", "no-prefix-0123456789"])
async def test_a_refusal_that_echoes_the_key_does_not_spread_it(
    running_server: OpenAIServer, build: Build, caplog: pytest.LogCaptureFixture, key: str
) -> None:
    running_server.reset()
    provider = build(api_key=SecretStr(key))
    with pytest.raises(AIError, match=r"\(HTTP 401: Incorrect API key provided: \*\*\*\)") as caught:
        await provider.suggest(titles("a"))
    assert len(running_server.stats().rejected) == 1
    assert key not in everything_shown(caught.value, caplog) + repr(provider) + repr(vars(provider))


async def test_a_fault_that_echoes_the_key_does_not_spread_it(
    server: OpenAIServer, provider: SuggestionProvider, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "executor_service")  # repeats of a line are DEBUG
    server.behave(Behaviour(status=500, error_message=f"Bearer {server.api_key} is too much"))
    with pytest.raises(AIError, match=r"\(HTTP 500: Bearer \*\*\* is too much\)") as caught:
        await provider.suggest(titles("a"))
    assert "attempt 3 of 4" in caplog.text
    assert server.api_key not in everything_shown(caught.value, caplog)


async def test_the_clients_own_debug_log_keeps_the_key_out(
    server: OpenAIServer, provider: SuggestionProvider, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("", "openai", "httpx2"):  # those that servicekit's logs keep quiet otherwise
        caplog.set_level(logging.DEBUG, logger=name)
    await provider.suggest(titles("a"))
    assert "chat/completions" in caplog.text
    assert server.api_key not in caplog.text
