"""http_proxy in the environment is for the Web, and not for what goes between the parts of a stack."""

import asyncio
import os
import subprocess
import sys

import pytest

from devstack.ports import HOST
from executor_service.settings import ExecutorSettings
from servicekit.config.settings import ServiceSettings
from servicekit.rpc.server import Server
from servicekit.telemetry.metrics import Metrics

PROGRAM = """
import asyncio, sys
from runs_client.client import RunsClient

async def main():
    async with RunsClient(sys.argv[1], timeout=10, http_proxy=sys.argv[2] == "through") as client:
        await client.require_serving()

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("arguments", "works"),
    [
        (("-c", PROGRAM, "TARGET", "past"), True),
        (("-c", PROGRAM, "TARGET", "through"), False),
        (("-m", "servicekit.health_probe", "TARGET"), True),
    ],
)
async def test_calls_go_past_a_dead_proxy_unless_asked_for(arguments: tuple[str, ...], works: bool) -> None:
    settings: ServiceSettings = ExecutorSettings(
        listen=f"{HOST}:0", auth_mode="disabled", database_url="postgresql://localhost/unused"
    )
    server = Server(settings, [], {}, Metrics())
    await server.start()
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *(server.address if one == "TARGET" else one for one in arguments),
            env={"PATH": os.environ["PATH"], "http_proxy": f"http://{HOST}:9", "HTTP_PROXY": f"http://{HOST}:9"},
            stderr=subprocess.PIPE,
        )
        _, errors = await process.communicate()
        assert (process.returncode == 0) is works, errors.decode()
    finally:
        await server.stop(0)
