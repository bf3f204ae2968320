"""playbook-runs-client by itself: built, installed where nothing else is, and used against the stack."""

import asyncio
import json
import subprocess
import sys
import tomllib
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from tests.support.shop import Shop

ROOT = Path(__file__).parents[2]
NAME = "playbook-runs-client"
MOST_PACKAGES = 12
TIMEOUT = 60  # seconds

PROGRAM = """
import asyncio, importlib, json, pkgutil, sys
from contextlib import aclosing
from importlib.metadata import distributions
from importlib.util import find_spec

import runs_client
from playbooks.runs.v1.run_pb2 import Run
from runs_client.blocking import BlockingExecutorClient, BlockingRunsClient
from runs_client.client import RunsClient

runs_target, executor_target, project = sys.argv[1:]
token = sys.stdin.read()
for module in pkgutil.walk_packages(runs_client.__path__, "runs_client."):
    importlib.import_module(module.name)

async def with_asyncio():
    async with RunsClient(runs_target, token=token) as client:
        run = (await client.create(project, "missing_seo_title", Run.PREVIEW_GENERATE)).run
        async with aclosing(client.watch(project, run.id)) as changes:
            return [change.run.status async for change in changes][-1]

def without():
    with BlockingRunsClient(runs_target, token=token) as runs:
        run = runs.create(project, "missing_seo_description", Run.PREVIEW_GENERATE).run
        last = [change.run for change in runs.watch(project, run.id)][-1]
    with BlockingExecutorClient(executor_target, token=token) as executor:
        return last.status, len(executor.get_draft(project, last.draft_id).items)

print(json.dumps({
    "packages": sorted(found.name for found in distributions()),
    "services": [name for name in ("servicekit", "runs_service", "executor_service", "devstack") if find_spec(name)],
    "asyncio": asyncio.run(with_asyncio()),
    "blocking": without(),
    "succeeded": Run.SUCCEEDED,
}))
"""


def run(*command: str | Path, **options: Any) -> str:
    done = subprocess.run(
        list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT, check=False, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def needed(name: str, found: dict[str, Distribution]) -> dict[str, Distribution]:
    """Add what a distribution asks for, and all that asks for, to `found`, as installed here, by name."""
    for line in distribution(name).requires or ():
        requirement = Requirement(line)
        if requirement.name not in found and (not requirement.marker or requirement.marker.evaluate({"extra": ""})):
            found[requirement.name] = distribution(requirement.name)
            needed(requirement.name, found)
    return found


def copy(installed: Distribution, site: Path) -> None:
    """Put a distribution's files into another site-packages; scripts stay behind."""
    for file in installed.files or ():
        if ".." not in file.parts and "__pycache__" not in file.parts:
            (site / file).parent.mkdir(parents=True, exist_ok=True)
            (site / file).symlink_to(file.locate())


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the client and, from this environment, what its metadata asks for.

    Nothing is downloaded, so the versions are the locked ones.
    """
    folder = tmp_path_factory.mktemp("client")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run(*pip, "wheel", "-q", "--no-index", "--no-deps", "--no-build-isolation", "./client", "-w", folder)
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv")
    python = folder / "venv/bin/python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    for installed in needed(NAME, {}).values():
        copy(installed, site)
    [wheel] = folder.glob("*.whl")
    run(*pip, "--python", python, "install", "-q", "--no-index", wheel)  # fails where a requirement is missing
    return python


async def test_it_needs_few_packages_and_calls_both_services_with_and_without_asyncio(python: Path, shop: Shop) -> None:
    await shop.stock(2)
    targets = shop.stack.runs_target, shop.stack.executor_target
    token = shop.stack.token(shop.project, "OWNER")
    found = json.loads(
        await asyncio.to_thread(run, python, "-I", "-c", PROGRAM, *targets, shop.project, input=token, env={})
    )
    assert NAME in found["packages"]
    assert len(found["packages"]) <= MOST_PACKAGES, found["packages"]
    assert found["services"] == []
    assert found["asyncio"] == found["succeeded"]
    assert found["blocking"] == [found["succeeded"], 2]


def test_no_file_is_in_two_distributions() -> None:
    project, client = (tomllib.loads((ROOT / file).read_text()) for file in ("pyproject.toml", "client/pyproject.toml"))
    excluded = [name for name in project["tool"]["hatch"]["build"]["targets"]["wheel"]["exclude"] if "/" in name]
    assert excluded == client["tool"]["hatch"]["build"]["hooks"]["custom"]["modules"]
    assert f"{NAME}=={client['project']['version']}" in project["project"]["dependencies"]
    shared = set(client["project"]["dependencies"])
    assert shared <= set(project["project"]["dependencies"])
