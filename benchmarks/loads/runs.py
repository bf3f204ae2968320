"""What a client does with runs, one call after the other."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypedDict
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
AT_ONCE = 64  # calls of one client


class Call(TypedDict):
    """What every call carries: a token, and the time it may take."""

    metadata: tuple[tuple[str, str], ...]
    timeout: float


@contextmanager
def runs_stub(stack: Stack) -> Iterator[RunsServiceStub]:
    """Enter a connection to the first runs_service that is up."""
    with grpc.insecure_channel(stack.runs_target) as channel:
        grpc.channel_ready_future(channel).result(TIMEOUT)
        yield RunsServiceStub(channel)


def credentials(token: str) -> Call:
    """Return what every call of the token's bearer carries."""
    return {"metadata": (("authorization", f"Bearer {token}"),), "timeout": TIMEOUT}


def auth(stack: Stack, project: str) -> Call:
    """Return what every call of a project's owner carries."""
    return credentials(stack.token(project, "OWNER"))


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
    with runs_stub(stack) as stub:
        answer = stub.CreateRun(_request(project, run_type, **fields), **auth(stack, project))
    require(answer.created, f"run {answer.run.id} was there already")
    return answer.run


def finished(stack: Stack, run: Run) -> Run:
    """Watch a run to its end and return it. Fails unless it SUCCEEDED."""
    with runs_stub(stack) as stub:
        return watched(stub, run, auth(stack, run.project_id))


def watched(stub: RunsServiceStub, run: Run, call: Call) -> Run:
    """Do the same on a connection that is there."""
    for seen in _seen(stub, run, call):
        run = seen
    return _succeeded(run)


@dataclass(frozen=True)
class Timed:
    """A run as its client saw it."""

    run: Run
    seconds: float  # from CreateRun sent to the terminal state received
    working: float  # from RUNNING received to the terminal state received


def timed(stack: Stack, project: str, run_type: Run.Type.ValueType, **fields: Any) -> Timed:
    """Create a run and watch it to its end, on one connection. Fails unless it SUCCEEDED."""
    request, call = _request(project, run_type, **fields), auth(stack, project)
    with runs_stub(stack) as stub:
        started = running = time.perf_counter()
        run = stub.CreateRun(request, **call).run
        for seen in _seen(stub, run, call):
            if seen.status == Run.RUNNING and run.status == Run.QUEUED:
                running = time.perf_counter()
            run = seen
        ended = time.perf_counter()
    return Timed(_succeeded(run), ended - started, ended - running)


def _seen(stub: RunsServiceStub, run: Run, call: Call) -> Iterator[Run]:
    request = pb.WatchRunRequest(project_id=run.project_id, run_id=run.id)
    for message in stub.WatchRun(request, **call):
        yield message.run


def _succeeded(run: Run) -> Run:
    status = Run.Status.Name(run.status)
    require(status == "SUCCEEDED", f"run {run.id} ended {status} {run.error_code}: {run.error_message}")
    return run


def _request(project: str, run_type: Run.Type.ValueType, **fields: Any) -> pb.CreateRunRequest:
    return pb.CreateRunRequest(
        project_id=project, playbook_id=PLAYBOOK, run_type=run_type, idempotency_key=uuid4().hex, **fields
    )


def create_many(stack: Stack, project: str, count: int, run_type: Run.Type.ValueType, **fields: Any) -> None:
    """Create `count` runs, each under a key of its own, many at once. Fails unless all are new."""
    window = threading.BoundedSemaphore(AT_ONCE)
    with runs_stub(stack) as stub:
        call = auth(stack, project)
        under_way = []
        for _ in range(count):
            request = _request(project, run_type, **fields)
            window.acquire()
            answer = stub.CreateRun.future(request, **call)
            answer.add_done_callback(lambda _: window.release())
            under_way.append(answer)
        created = sum(answer.result().created for answer in under_way)
    require(created == count, f"{count} runs were to be created, {created} are new")
