"""What a service loads when it starts: every process of it pays for that."""

import subprocess
import sys

UNNEEDED = {"sqlalchemy", "alembic", "openai"}  # the last one is needed when it is the provider
PROGRAM = "import sys, executor_service.__main__, runs_service.__main__; print(*sys.modules, sep='\\n')"


def test_a_service_starts_without_what_only_a_migration_or_another_provider_needs() -> None:
    loaded = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout
    assert {"executor_service.app", "runs_service.app"} <= set(loaded.splitlines())
    assert UNNEEDED.isdisjoint(loaded.splitlines())
