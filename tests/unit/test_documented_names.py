"""What the documents name is there: files, folders, identifiers, environment variables and their defaults."""

import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from executor_service.settings import ExecutorSettings
from gateway.settings import GatewaySettings
from runs_service.settings import RunsSettings
from servicekit.config.settings import ListenerSettings

ROOT = Path(__file__).parents[2]
DOCUMENTS = (
    "docs/architecture.md",
    "docs/operations.md",
    "docs/performance.md",
    "docs/reliability.md",
    "docs/security.md",
    "CONTRIBUTING.md",
)
# Of Envoy, HTTP, PostgreSQL, RabbitMQ and Redis.
OF_OTHERS = {
    "Origin",
    "max_concurrent_streams",
    "overload_manager",
    "connection_limit",
    "max_message_size",
    "LTRIM",
    "pg_basebackup",
    "pg_resetwal",
}
# Of Redis, and of the library of metrics.
OF_OTHERS |= {
    "maxmemory", "noeviction",
    "process_cpu_seconds_total", "process_max_fds", "process_open_fds", "process_resident_memory_bytes",
    "process_start_time_seconds", "process_virtual_memory_bytes",
}  # fmt: skip
OWNERS: dict[str, type[ListenerSettings]] = {"GATEWAY": GatewaySettings, "EXECUTOR": ExecutorSettings}
UNITS = {"": 1, " MiB": 1024**2}


def quoted(document: str) -> Iterator[str]:
    """Yield what a document has in backticks, outside of blocks."""
    text = re.sub(r"```.*?```", "", (ROOT / document).read_text(), flags=re.DOTALL)
    yield from re.findall(r"`([^`\n]+)`", text)


@cache
def files() -> tuple[str, ...]:
    """Return the files of the repository, each as "/" and its path."""
    hidden = re.compile(r"\.(?!ci$)|(build|__pycache__)$")
    found: list[str] = []
    # Path.rglob fails on a folder that goes meanwhile: tools beside the tests make and delete their caches.
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if not hidden.match(name)]
        place = Path(folder).relative_to(ROOT)
        found += [f"/{(place / name).as_posix()}" for name in names if not name.startswith(".")]
    return tuple(found)


@cache
def source() -> frozenset[str]:
    """Return the words of the source."""
    ours = [ROOT / path[1:] for path in files() if path.endswith((".py", ".proto", ".toml", "Makefile"))]
    return frozenset(re.findall(r"\w+", "\n".join(path.read_text() for path in ours if path != Path(__file__))))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_and_folder_that_a_document_names_exists(document: str) -> None:
    # A path from the root is a route.
    named = [text for text in quoted(document) if re.fullmatch(r"[\w.][\w./-]*(\.(py|proto|md|toml|json)|/)", text)]
    assert named
    missing = [
        text
        for text in named
        if not any(f"/{text}" in path if text.endswith("/") else path.endswith(f"/{text}") for path in files())
    ]
    assert missing == []


# docs/performance.md also names what was measured and deleted.
@pytest.mark.parametrize("document", [document for document in DOCUMENTS if document != "docs/performance.md"])
def test_every_identifier_that_a_document_names_is_in_the_source(document: str) -> None:
    named = [text.removesuffix("()") for text in quoted(document)]
    words = [
        word
        for text in named
        if re.fullmatch(r"\w+(\.\w+)*", text) and not text.endswith((".py", ".md", ".proto"))
        for word in text.split(".")
    ]
    assert [word for word in words if word not in source() | OF_OTHERS] == []


def test_the_limits_on_callers_have_the_documented_defaults() -> None:
    text = (ROOT / "docs/security.md").read_text()
    rows = re.findall(r"^\| `((?:GATEWAY_|RUNS_|EXECUTOR_)?MAX_\w+)` \| ([^|]+) \|", text, flags=re.MULTILINE)
    assert len(rows) == 18
    for name, documented in rows:
        services: dict[str, type[ListenerSettings]] = {"runs ": RunsSettings, "executor ": ExecutorSettings}
        default = OWNERS.get(name.partition("_")[0], RunsSettings)
        for value in documented.split("; "):
            (service,) = [service for prefix, service in services.items() if value.startswith(prefix)] or [default]
            number, unit = re.fullmatch(r"(?:runs |executor )?([\d,]+)(.*)", value).groups()  # type: ignore[union-attr]
            assert service.model_fields[name.lower()].default == int(number.replace(",", "")) * UNITS[unit], name
