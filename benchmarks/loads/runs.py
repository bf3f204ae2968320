"""What a client does with runs, one call after the other."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import grpc
from playbooks.executor.v1 import catalog_service_pb2 as catalog
from playbooks.executor.v1.catalog_service_pb2_grpc import CatalogServiceStub
from playbooks.runs.v1 import runs_service_pb2 as pb
from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2_grpc import RunsServiceStub

from benchmarks.harness import make_project, require
from devstack.stack import Stack

PLAYBOOK = "missing_seo_title"
TIMEOUT = 120.0  # seconds a call may take before the benchmark counts as broken
PRODUCTS_A_CALL = 500


@contextmanager
def runs_stub(stack: Stack) -> Iterator[RunsServiceStub]:
    """Enter a connection to the first runs_service."""
    with grpc.insecure_channel(stack.runs_target) as channel:
        yield RunsServiceStub(channel)


def auth(stack: Stack, project: str) -> dict[str, Any]:
    """Return what every call for a project carries."""
    return {"metadata": (("authorization", f"Bearer {stack.token(project, 'OWNER')}"),), "timeout": TIMEOUT}


def make_shop(stack: Stack, name: str, *, products: int) -> str:
    """Make a project with `products` that have no SEO fields, and return its id."""
    project = make_project(stack, name)
    put_products(stack, project, products)
    return project


def put_products(stack: Stack, project: str, count: int) -> None:
    """Put `count` products without SEO fields; those that are there lose theirs."""
    products = [
        catalog.Product(
            id=product_id(project, number),
            external_id=f"gid://shopify/Product/{number}",
            title=f"{project} thing {number}",
            description=f"<p>Number {number} of {project}: sturdy, light and made to last.</p>",
        )
        for number in range(count)
    ]
    with grpc.insecure_channel(stack.executor_target) as channel:
        stub = CatalogServiceStub(channel)
        for start in range(0, count, PRODUCTS_A_CALL):
            request = catalog.PutProductsRequest(project_id=project, products=products[start : start + PRODUCTS_A_CALL])
            stub.PutProducts(request, **auth(stack, project))


def product_id(project: str, number: int) -> str:
    """Return the id of a shop's product."""
    return f"{project}-{number:05}"


def create(stack: Stack, project: str, run_type: Run.Type.ValueType = Run.PREVIEW_GENERATE, **fields: Any) -> Run:
    """Create a run under a key of its own."""
    request = pb.CreateRunRequest(
        project_id=project, playbook_id=PLAYBOOK, run_type=run_type, idempotency_key=uuid4().hex, **fields
    )
    with runs_stub(stack) as stub:
        answer = stub.CreateRun(request, **auth(stack, project))
    require(answer.created, f"run {answer.run.id} was there already")
    return answer.run


def finished(stack: Stack, run: Run) -> Run:
    """Watch a run to its end and return it. Fails unless it SUCCEEDED."""
    request = pb.WatchRunRequest(project_id=run.project_id, run_id=run.id)
    with runs_stub(stack) as stub:
        for message in stub.WatchRun(request, **auth(stack, run.project_id)):
            run = message.run
    require(
        run.status == Run.SUCCEEDED,
        f"run {run.id} ended {Run.Status.Name(run.status)} {run.error_code}: {run.error_message}",
    )
    return run
