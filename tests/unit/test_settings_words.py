"""Each environment variable with bad values: one line a variable, in our words, without the value of a secret."""

import contextlib
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


CASES = [(kind, bad) for kind in (RunsSettings, ExecutorSettings) for bad in BAD]


@pytest.mark.parametrize(("kind", "bad"), CASES, ids=[f"{kind.__name__}-{bad[:16]!a}" for kind, bad in CASES])
def test_a_bad_value_is_named_in_our_words(
    kind: type[ServiceSettings], bad: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    every = list(variables(kind))

    def refused(*wrong: str) -> list[str]:
        """Load with these variables bad; return the lines of the refusal, if there is one."""
        for name in every:
            monkeypatch.delenv(name, raising=False)
        for name, value in (GOOD | dict.fromkeys(wrong, bad)).items():
            monkeypatch.setenv(name, value)
        with contextlib.suppress(SystemExit):
            settings.load(kind)
        said = capsys.readouterr().err
        assert not THEIRS.search(said), said
        assert "hidden-word" not in said, said
        lines = said.splitlines()
        assert [printable(line) for line in lines] == lines
        return lines

    together = refused(*every)  # each by itself would take ten times as long
    named = {name for name in every for line in together if line.startswith(f"{name}: ")}
    assert len(named) == len(together), together
    for name in sorted(set(every) - named):  # a good value, or one that is looked at beside others
        alone = refused(name)
        assert len(alone) <= 1
        assert all(name in line for line in alone), alone
