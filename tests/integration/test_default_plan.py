"""PLN-002: DEFAULT_PLAN, of the executor alone and of a whole stack."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from playbooks.executor.v1.catalog_service_pb2 import Project, PutProjectRequest
from playbooks.executor.v1.catalog_service_pb2_grpc import CatalogServiceStub

from devstack.ports import HOST, free_ports
from devstack.stack import Stack
from tests.support.forking import Forks

DEADLINE = 30  # seconds


@contextmanager
def executor(forks: Forks, log: Path, database_url: str, **settings: str) -> Iterator[str]:
    """Enter an executor_service of its own, without authentication; gives its address."""
    target = f"{HOST}:{free_ports(1)[0]}"
    inherited = {name: value for name, value in os.environ.items() if name != "DEFAULT_PLAN"}
    env = {"EXECUTOR_DATABASE_URL": database_url, "EXECUTOR_LISTEN": target, "AUTH_MODE": "disabled", **settings}
    process = forks.run(log, env=inherited | env)
    try:
        yield target
    finally:
        process.kill()


def created(target: str, project: str, token: str = "") -> str:
    """Create a project as nothing but itself; return the plan that it got."""
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    with grpc.insecure_channel(target) as channel:
        answer = CatalogServiceStub(channel).PutProject(
            PutProjectRequest(project_id=project), metadata=metadata, timeout=DEADLINE, wait_for_ready=True
        )
    return Project.Plan.Name(answer.project.plan)


@pytest.mark.parametrize(
    ("settings", "plan"),
    [({}, "FREE"), ({"DEFAULT_PLAN": ""}, "FREE"), ({"DEFAULT_PLAN": "PRO"}, "PRO")],
    ids=["unset", "empty", "PRO"],
)
def test_PLN_002_a_new_project_is_on_the_default_plan(
    executor_forks: Forks, tmp_path: Path, executor_database: str, settings: dict[str, str], plan: str
) -> None:
    with executor(executor_forks, tmp_path / "log", executor_database, **settings) as target:
        assert created(target, "shop") == plan


def test_PLN_002_the_callers_default_plan_wins_over_that_of_the_stack(
    new_stack: Callable[..., Stack], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEFAULT_PLAN", "PRO")
    with new_stack(broker=False) as stack:
        assert created(stack.executor_target, "shop", stack.token("shop", "OWNER")) == "PRO"
