"""The clients for code without asyncio: threads, Ctrl-C, the end."""

import inspect
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from playbooks.runs.v1 import runs_service_pb2 as pb
from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2_grpc import RunsServiceServicer, add_RunsServiceServicer_to_server

from runs_client.blocking import BlockingExecutorClient, BlockingRunsClient
from runs_client.client import RunsClient
from runs_client.errors import ServiceCallError
from runs_client.executor import ExecutorClient

TIMEOUT = 10  # seconds


class Service(RunsServiceServicer):  # type: ignore[misc]
    """Answers GetRun with the run's id, and sends streams that never end."""

    def __init__(self) -> None:
        self.watching = threading.Event()
        self.ended = threading.Event()

    def GetRun(self, request: pb.GetRunRequest, context: grpc.ServicerContext) -> pb.GetRunResponse:
        if request.run_id == "none":
            context.abort(grpc.StatusCode.NOT_FOUND, "no such run")
        return pb.GetRunResponse(run=Run(id=request.run_id))

    def ListRuns(self, request: pb.ListRunsRequest, context: grpc.ServicerContext) -> pb.ListRunsResponse:
        page = int(request.page_token or 0)
        return pb.ListRunsResponse(runs=[Run(id=str(page))], next_page_token=str(page + 1) if page < 2 else "")

    def WatchRun(self, request: pb.WatchRunRequest, context: grpc.ServicerContext) -> Iterator[pb.WatchRunResponse]:
        context.add_callback(self.ended.set)
        yield pb.WatchRunResponse(run=Run(sequence=1))
        self.watching.set()
        self.ended.wait()


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def target(service: Service) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(4))
    add_RunsServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.fixture
def client(target: str) -> Iterator[BlockingRunsClient]:
    with BlockingRunsClient(target) as client:
        yield client


@pytest.mark.parametrize(
    ("blocking", "kind"), [(BlockingRunsClient, RunsClient), (BlockingExecutorClient, ExecutorClient)]
)
def test_it_has_every_method_with_its_arguments(blocking: Any, kind: Any) -> None:
    methods = {name: method for name, method in inspect.getmembers(kind, callable) if name[0] != "_"}
    assert methods
    for name, method in methods.items():
        assert inspect.signature(getattr(blocking, name)) == inspect.signature(method)
    assert list(inspect.signature(blocking).parameters) == list(inspect.signature(kind).parameters)


def test_calls_of_many_threads(client: BlockingRunsClient) -> None:
    with ThreadPoolExecutor(8) as threads:
        ids = [str(number) for number in range(100)]
        assert [run.id for run in threads.map(lambda wanted: client.get("p", wanted), ids)] == ids


def test_lists_go_on_over_pages_and_errors_are_raised(client: BlockingRunsClient) -> None:
    assert [run.id for run in client.list("p")] == ["0", "1", "2"]
    with pytest.raises(ServiceCallError, match="no such run"):
        client.get("p", "none")


def test_a_watch_that_stops_early_frees_the_server(client: BlockingRunsClient, service: Service) -> None:
    for response in client.watch("p", "r"):
        assert response.run.sequence == 1
        break
    assert service.ended.wait(TIMEOUT)


def test_an_interrupted_watch_frees_the_server_and_the_client_goes_on(
    client: BlockingRunsClient, service: Service
) -> None:
    def interrupt() -> None:
        service.watching.wait()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    pressing = threading.Thread(target=interrupt)
    pressing.start()
    with pytest.raises(KeyboardInterrupt):
        for _ in client.watch("p", "r"):
            pass
    pressing.join()
    assert service.ended.wait(TIMEOUT)
    assert client.get("p", "r").id == "r"


def test_its_end_ends_what_other_threads_wait_for(client: BlockingRunsClient, service: Service) -> None:
    with ThreadPoolExecutor(1) as threads:
        watching = threads.submit(lambda: list(client.watch("p", "r")))
        assert service.watching.wait(TIMEOUT)
        client.close()
        with pytest.raises(RuntimeError, match="the client is closed"):
            watching.result(TIMEOUT)
    client.close()
    with pytest.raises(RuntimeError, match="the client is closed"):
        client.get("p", "r")
    with pytest.raises(RuntimeError, match="the client is closed"):
        next(client.watch("p", "r"))
    assert not any("calls of" in thread.name for thread in threading.enumerate())


def test_bad_arguments_are_refused_and_leave_no_thread(target: str) -> None:
    with pytest.raises(ServiceCallError, match="line break"):
        BlockingRunsClient(target, token="a\nb")
    assert not any("calls of" in thread.name for thread in threading.enumerate())


# A watch is begun, and its owner forgets it.
FORGOTTEN_AT_EXIT = """
client = BlockingRunsClient(target)
watch = client.watch("p", "r")
print(next(watch).run.sequence)
"""
# Its owner's garbage is collected by the thread that makes the calls, here while that asks for a token.
FORGOTTEN_IN_A_CYCLE = """
import gc

class Owner: pass

gc.disable()
client = BlockingRunsClient(target, token=lambda: gc.collect() and "" or "")
owner = Owner()
owner.itself, owner.watch = owner, client.watch("p", "r")
print(next(owner.watch).run.sequence)
del owner
assert client.get("p", "r").id == "r"
client.close()
"""


@pytest.mark.parametrize("program", [FORGOTTEN_AT_EXIT, FORGOTTEN_IN_A_CYCLE], ids=["exit", "cycle"])
def test_a_watch_that_is_forgotten_keeps_nobody_waiting(program: str, target: str, service: Service) -> None:
    begin = "import sys; from runs_client.blocking import BlockingRunsClient; target = sys.argv[1]\n"
    line = [sys.executable, "-c", begin + program, target]
    ended = subprocess.run(line, capture_output=True, text=True, timeout=TIMEOUT, check=True)
    assert ended.stdout == "1\n"
    assert "Traceback" not in ended.stderr
    assert service.ended.wait(TIMEOUT)
