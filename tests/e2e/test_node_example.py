"""examples/node, in Node: it makes a run, resumes its watches over cut connections, and reads an error's details."""

import asyncio
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import pytest
from playbooks.runs.v1.run_pb2 import Run, RunMeta

from tests.support.openai_protocol import Behaviour
from tests.support.openai_server import OpenAIServer
from tests.support.proxy import Proxy
from tests.support.shop import DESCRIPTIONS, TITLES, Shop

ROOT = Path(__file__).parents[2]
INSTALL_TIMEOUT = 60  # seconds
TIMEOUT = 60
CHANGE = re.compile(r"#(\d+)  (\w+)  (\d+)/(\d+)")


def missing(what: str) -> NoReturn:
    """Skip, or fail where everything was promised: an absence there must not pass for success."""
    pytest.fail(what) if os.environ.get("CI") else pytest.skip(what)


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the example, installed as its lock file says, beside the descriptor set."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if not (node and npm):
        missing("examples/node needs node and npm, which are not on PATH")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.lstrip("v").partition(".")[0]) < 20:
        missing(f"examples/node needs Node 20 or newer, and this is {version}")
    root = tmp_path_factory.mktemp("node")
    folder = root / "examples/node"
    shutil.copytree(ROOT / "examples/node", folder, ignore=shutil.ignore_patterns("node_modules"))
    (root / "gen").symlink_to(ROOT / "gen")
    install = ["npm", "ci", "--prefer-offline", "--no-audit", "--no-fund", "--no-update-notifier"]
    try:
        done = subprocess.run(install, cwd=folder, capture_output=True, text=True, timeout=INSTALL_TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        missing(f"npm installed nothing within {INSTALL_TIMEOUT} s")
    if done.returncode:
        missing(f"npm cannot install what examples/node needs: {done.stderr[-500:]}")
    return folder


class Program:
    """The program as it runs, with its lines of output."""

    def __init__(self, example: Path, shop: Shop, *options: str, target: str = "", script: str = "main.js") -> None:
        self._command = ["node", script, "--project", shop.project, "--target", target or shop.stack.runs_target]
        self._command += options
        self._folder = example
        self._environment = os.environ | {"PLAYBOOK_RUNS_TOKEN": shop.stack.token(shop.project, "OWNER")}

    async def __aenter__(self) -> "Program":
        self.process = await asyncio.create_subprocess_exec(
            *self._command,
            cwd=self._folder,
            env=self._environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    async def line(self) -> str:
        """Return the next line; "" at the end."""
        assert self.process.stdout
        async with asyncio.timeout(TIMEOUT):
            return (await self.process.stdout.readline()).decode().rstrip("\n")

    async def ended(self) -> tuple[int, list[str]]:
        """Return its exit code and what it wrote on standard error."""
        async with asyncio.timeout(TIMEOUT):
            _, errors = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, errors.decode().splitlines()


def sequences(changes: Sequence[str]) -> list[int]:
    found = [CHANGE.fullmatch(line) for line in changes]
    assert all(found), changes
    return [int(change[1]) for change in found if change]


async def test_a_run_is_watched_to_its_end_over_cut_connections(
    example: Path, shop: Shop, openai: OpenAIServer
) -> None:
    await shop.stock(30)
    openai.behave(Behaviour(delay_seconds=0.3))
    changes: list[str] = []
    async with (
        Proxy(shop.stack.runs_target) as proxy,
        Program(example, shop, "--sample-size", "30", target=proxy.target) as program,
    ):
        assert re.fullmatch(r"created run [0-9a-f-]{36}", await program.line())
        while line := await program.line():
            changes.append(line)
            proxy.cut()  # after each change that it showed
        assert await program.ended() == (0, [])
        assert proxy.cuts >= 2
    assert sequences(changes) == list(range(1, len(changes) + 1))
    assert changes[-1].endswith("SUCCEEDED  30/30")


async def test_an_errors_details_are_shown(example: Path, shop: Shop) -> None:
    async with Program(example, shop, "--sample-size", "51") as program:
        code, errors = await program.ended()
    assert code == 1
    assert errors[0].startswith("INVALID_ARGUMENT VALIDATION_FAILED: ")
    assert errors[1].startswith("  meta.sample_size: must be ")


async def test_a_project_is_followed_over_cut_connections_and_again_from_a_position(
    example: Path, shop: Shop, openai: OpenAIServer
) -> None:
    await shop.stock(30)
    await shop.preview()
    openai.behave(Behaviour(delay_seconds=0.2))
    seen: list[tuple[str, str]] = []  # run and sequence
    positions: list[str] = []

    async def read(program: Program) -> str:
        """Note the next change; return its status."""
        run_id, sequence, _, status, position = (await program.line()).split("  ")
        seen.append((run_id, sequence))
        positions.append(position)
        return status

    async with (
        Proxy(shop.stack.runs_target) as proxy,
        Program(example, shop, script="follow.js", target=proxy.target) as program,
    ):
        assert await read(program) == "SUCCEEDED"  # it follows now
        meta = RunMeta(sample_size=20)
        # Two previews of one playbook at the same time could both pay for a product.
        runs = [
            (await shop.create(Run.PREVIEW_GENERATE, playbook, meta=meta)).run for playbook in (TITLES, DESCRIPTIONS)
        ]
        for _ in runs:
            while await read(program) != "SUCCEEDED":
                proxy.cut()  # after each change that it showed
        assert proxy.cuts >= 2
    assert len(set(seen)) == len(seen)
    for run in runs:
        last = await shop.get(run.id)
        assert [sequence for id_, sequence in seen if id_ == run.id] == [f"#{n}" for n in range(1, last.sequence + 1)]

    half = len(seen) // 2
    again = seen[half:]
    del seen[:]
    async with Program(example, shop, "--after", positions[half - 1], script="follow.js") as program:
        while len(seen) < len(again):
            await read(program)
    assert sorted(seen) == sorted(again)  # what comes at once comes run by run
