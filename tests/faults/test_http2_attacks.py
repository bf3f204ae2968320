"""Scenario 15: attacks below gRPC, by strangers: rapid reset, header floods, slow loris, compression bombs. Good
callers lose no call, their p99 stays within three times its quiet one, and memory is bounded."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest
from playbooks.runs.v1.runs_service_pb2 import ListRunsRequest

from tests.faults.sizes import overbooked, size, tail
from tests.support.attacking import attacking
from tests.support.shop import Shop

CREATE = "/playbooks.runs.v1.RunsService/CreateRun"
SECONDS = size(20, 3)  # of an attack
ATTACKS = {
    # Names of tests.support.attacks, with their arguments after the target.
    "reset": (CREATE, SECONDS, 500),  # more of them cost a core: docs/security.md, "What remains"
    "header_flood": (SECONDS, 20, 60_000_000),
    "trickle": (SECONDS, 300),
    "bombs": (CREATE, 200, 15_000_000),
}
HELD = {"bombs"}  # they last until `ended` is called
QUIET = 150  # calls between attacks
GROWTH = 150_000_000  # bytes
SLOWER, MARGIN = 3, 0.05  # times the quiet, slow ones, and seconds


@pytest.mark.alone
async def test_attacks_on_the_connection_cost_good_callers_little(start_stack: Callable[..., Any]) -> None:
    shop: Shop = await start_stack(env={"AI_PROVIDER": "offline"})
    server = psutil.Process(shop.stack.runs[0].pid)

    async def slow(goes_on: Callable[[int], bool]) -> float:
        """Make calls, none of which may fail; return how long the slow ones of them take."""
        seconds = []
        while goes_on(len(seconds)):
            started = time.monotonic()
            await shop.runs().ListRuns(ListRunsRequest(project_id=shop.project), **shop.auth())
            seconds.append(time.monotonic() - started)
            await asyncio.sleep(0.01)
        return tail(seconds)

    quiet, loud = [await slow(lambda count: count < QUIET)], {}
    for name, arguments in ATTACKS.items():
        before = server.memory_info().rss
        async with attacking(name, shop.stack.runs_target, *arguments) as attack:
            if name in HELD:
                await attack.says("sent")
            ended = asyncio.create_task(attack.ended())
            loud[name] = await slow(lambda count: not ended.done())  # noqa: B023
            growth = server.memory_info().rss - before
            print(f"{name}: {await ended}; slow ones {loud[name]:.3f} s; {growth / 1e6:.0f} MB")
        assert growth < GROWTH, name
        quiet.append(await slow(lambda count: count < QUIET))
    # The worst of the quiet times: a machine that is busy with other things is so in between, too.
    print(f"quiet, slow ones {[round(one, 3) for one in quiet]} s")
    limit = SLOWER * overbooked() * max(quiet) + MARGIN
    assert {name: seconds for name, seconds in loud.items() if seconds > limit} == {}
    assert "Traceback" not in shop.stack.runs[0].log.read_text()
