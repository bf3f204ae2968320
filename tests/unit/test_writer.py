"""Who writes a stack's suggestions, in the words of the line that says it is ready."""

import pytest

from devstack.services import writer

KEY = {"OPENAI_API_KEY": "sk-0123456789"}
OFFLINE = "the offline template writer; set OPENAI_API_KEY to have a model write them"


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({}, OFFLINE),
        ({"OPENAI_API_KEY": " "}, OFFLINE),
        (
            KEY | {"AI_PROVIDER": "offline"},
            OFFLINE,
        ),
        (KEY, "OpenAI"),
        (KEY | {"AI_MODEL": "m-1"}, "OpenAI's model m-1"),
        (KEY | {"OPENAI_BASE_URL": "http://user:secret@127.0.0.1:9/v1"}, "OpenAI at 127.0.0.1"),
    ],
    ids=str,
)
def test_it_is_named_without_its_secrets(env: dict[str, str], words: str) -> None:
    assert writer(env) == words
