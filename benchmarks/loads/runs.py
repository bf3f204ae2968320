"""A client of runs and of their products."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypedDict
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
    """The arguments of every call: its metadata with the token, and its timeout."""

    metadata: tuple[tuple[str, str], ...]
    timeout: float


def credentials(token: str) -> Call:
    """Return the arguments of every call with this token."""
    return {"metadata": (("authorization", f"Bearer {token}"),), "timeout": TIMEOUT}


@dataclass(frozen=True)
class Timed:
    """A run as its client saw it."""

    run: Run
    seconds: float  # from CreateRun sent to the terminal state received
    working: float  # from RUNNING received to the terminal state received


class Client:
    """A connection to each of a stack's first services, up within the `with` block. May be used by many threads."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._channels = [grpc.insecure_channel(target) for target in (stack.runs_target, stack.executor_target)]
        self.runs = RunsServiceStub(self._channels[0])
        self.catalog = CatalogServiceStub(self._channels[1])

    def __enter__(self) -> Self:
        for channel in self._channels:
            grpc.channel_ready_future(channel).result(TIMEOUT)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for channel in self._channels:
            channel.close()

    def auth(self, project: str) -> Call:
        """Return the arguments of every call as the project's owner."""
        return credentials(self._stack.token(project, "OWNER"))

    # Products

    def make_shop(self, name: str, *, products: int) -> str:
        """Make a project with `products` that have no SEO fields, and return its id."""
        project = make_project(self._stack, name)
        self.put_products(project, products)
        return project

    def put_products(self, project: str, count: int) -> None:
        """Put `count` products without SEO fields; those that are there lose theirs."""
        products = [
            catalog.Product(
                id=f"{project}-{number:05}",
                external_id=f"gid://shopify/Product/{number}",
                title=f"{project} thing {number}",
                description=f"<p>Number {number} of {project}: sturdy, light and made to last.</p>",
            )
            for number in range(count)
        ]
        for start in range(0, count, PRODUCTS_A_CALL):
            request = catalog.PutProductsRequest(project_id=project, products=products[start : start + PRODUCTS_A_CALL])
            self.catalog.PutProducts(request, **self.auth(project))

    # Runs

    def create(self, project: str, run_type: Run.Type.ValueType = Run.PREVIEW_GENERATE, **fields: Any) -> Run:
        """Create a run under a key of its own."""
        answer = self.runs.CreateRun(_request(project, run_type, **fields), **self.auth(project))
        require(answer.created, f"run {answer.run.id} was there already")
        return answer.run

    def create_many(self, project: str, count: int, run_type: Run.Type.ValueType, **fields: Any) -> None:
        """Create `count` runs, each under a key of its own, many at once. Fails unless all are new."""
        window, call, under_way = threading.BoundedSemaphore(AT_ONCE), self.auth(project), []
        for _ in range(count):
            window.acquire()
            answer = self.runs.CreateRun.future(_request(project, run_type, **fields), **call)
            answer.add_done_callback(lambda _: window.release())
            under_way.append(answer)
        created = sum(answer.result().created for answer in under_way)
        require(created == count, f"{count} runs should be created, {created} are new")

    def finished(self, run: Run) -> Run:
        """Watch a run to its end and return it. Fails unless it SUCCEEDED."""
        for seen in self._seen(run, self.auth(run.project_id)):
            run = seen
        return _succeeded(run)

    def timed(self, project: str, run_type: Run.Type.ValueType, **fields: Any) -> Timed:
        """Create a run and watch it to its end. Fails unless it SUCCEEDED."""
        request, call = _request(project, run_type, **fields), self.auth(project)
        started = running = time.perf_counter()
        run = self.runs.CreateRun(request, **call).run
        for seen in self._seen(run, call):
            if seen.status == Run.RUNNING and run.status == Run.QUEUED:
                running = time.perf_counter()
            run = seen
        ended = time.perf_counter()
        return Timed(_succeeded(run), ended - started, ended - running)

    def _seen(self, run: Run, call: Call) -> Iterator[Run]:
        request = pb.WatchRunRequest(project_id=run.project_id, run_id=run.id)
        for message in self.runs.WatchRun(request, **call):
            yield message.run


def _succeeded(run: Run) -> Run:
    status = Run.Status.Name(run.status)
    require(status == "SUCCEEDED", f"run {run.id} ended {status} {run.error_code}: {run.error_message}")
    return run


def _request(project: str, run_type: Run.Type.ValueType, **fields: Any) -> pb.CreateRunRequest:
    return pb.CreateRunRequest(
        project_id=project, playbook_id=PLAYBOOK, run_type=run_type, idempotency_key=uuid4().hex, **fields
    )
