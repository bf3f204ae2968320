"""An attack of tests/support/attacks.py that a test has under way."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Attack:
    """An attack under way, in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def says(self, word: str) -> None:
        """Return when the attack has come to a point."""
        assert self._process.stdout
        async with asyncio.timeout(60):
            assert (await self._process.stdout.readline()).decode().strip() == word

    async def ended(self) -> dict[str, int]:
        """Let the attack end; return what became of it."""
        async with asyncio.timeout(60):
            output, _ = await self._process.communicate(b"\n")
        found: dict[str, int] = json.loads(output.splitlines()[-1])
        return found


@asynccontextmanager
async def attacking(*arguments: object) -> AsyncIterator[Attack]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.attacks", *map(str, arguments)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    attack = Attack(process)
    try:
        await attack.says("sending")
        yield attack
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
