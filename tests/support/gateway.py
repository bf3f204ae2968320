"""A gateway in the test's own process, and what its tests ask it for."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from devstack.ports import HOST
from gateway import app as gateway_app
from gateway.settings import GatewaySettings
from tests.support.tokens import hs256

RUNS = "/api/projects/p/automation-playbooks/runs"
NOBODY = f"{HOST}:1"
TOKEN = hs256()


@asynccontextmanager
async def gateway(**settings: Any) -> AsyncIterator[str]:
    """Run a gateway; its URL."""
    defaults = {"listen": f"{HOST}:0", "runs_target": NOBODY, "executor_target": NOBODY}
    async with gateway_app.serving(GatewaySettings(**(defaults | settings))) as server:
        yield f"{server.scheme}://{server.address}"
