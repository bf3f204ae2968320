"""Each environment variable with bad values: one line a variable, in our words, without the value of a secret."""

import re
from collections.abc import Iterator

import pytest
from pydantic import AliasChoices

from executor_service.settings import ExecutorSettings
from runs_service.settings import RunsSettings
from servicekit.config import settings
from servicekit.config.settings import ServiceSettings
from servicekit.telemetry.printable import printable

THEIRS = re.compile(
    r"Value error|Field required|Input should|validation error|valid (integer|boolean|number|string|path)|"
    r"at least 1 |pydantic|https?://errors|Traceback|ValueError|Literal|\(type=|unable to (parse|interpret)|parsing"
)
BAD = (
    *(
        " ",
        "x",
        "-1",
        "0",
        "1.5",
        "99999999999999999999",
        "1e999",
        "nan",
        "true",
        "[]",
        "{}",
        "☃",
        "a b",
        "a\tb",
        "../..",
    ),
    *("host", ":", "host:0", "host:99999", "[::1", "http://h:1", "redis://[h", "postgresql://u:hidden-word@[h/d"),
    *("amqp://u:hidden-word@h:port//", "postgresql://u:hidden-word@h/d?nonsense=1", "x" * 300, "%zz", "a;b", "😀" * 20),
)
GOOD = {
    "RUNS_DATABASE_URL": "postgresql://u:p@h/d",
    "EXECUTOR_DATABASE_URL": "postgresql://u:p@h/d",
    "AUTH_JWT_SECRET": "a secret of the services: 32 or more",
}


def variables(kind: type[ServiceSettings]) -> Iterator[str]:
    for name, field in kind.model_fields.items():
        alias = field.validation_alias
        yield str(alias.choices[0]) if isinstance(alias, AliasChoices) else name.upper()


CASES = [(kind, name) for kind in (RunsSettings, ExecutorSettings) for name in variables(kind)]


@pytest.mark.parametrize(("kind", "name"), CASES, ids=[f"{kind.__name__}-{name}" for kind, name in CASES])
def test_a_bad_value_is_named_in_our_words(
    kind: type[ServiceSettings], name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for other in {variable for _, variable in CASES}:
        monkeypatch.delenv(other, raising=False)
    for other, value in GOOD.items():
        monkeypatch.setenv(other, value)
    for bad in BAD:
        monkeypatch.setenv(name, bad)
        try:
            settings.load(kind)
        except SystemExit:
            said = capsys.readouterr().err
            assert name in said, (bad, said)
            assert not THEIRS.search(said), (bad, said)
            assert "hidden-word" not in said, (bad, said)
            assert said.count("\n") == 1, (bad, said)
            assert said.rstrip("\n") == printable(said.rstrip("\n")), (bad, said)
