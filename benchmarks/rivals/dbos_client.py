"""DBOS's client: `DBOSClient.enqueue`, and workflow lists with their outputs."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from dbos import DBOSClient, EnqueueOptions

from benchmarks.harness.load import receive, send
from benchmarks.rivals.dbos_app import QUEUE, VERSION, WORKFLOW

THREADS = 32  # more enqueue no more
POLL = 0.05  # seconds between looks for workflows that have not ended
RESULT_POLL = 0.01  # seconds between looks for one result
ENQUEUED: EnqueueOptions = {"queue_name": QUEUE, "workflow_name": WORKFLOW, "app_version": VERSION}


class Client:
    """A client and the threads in which it enqueues: its calls block."""

    def __init__(self, threads: int) -> None:
        self._client = DBOSClient(
            system_database_url=os.environ["BENCH_DATABASE_URL"], system_database_pool_size=threads
        )
        self._threads = ThreadPoolExecutor(threads)
        self._size = threads

    def enqueue_many(self, count: int) -> set[str]:
        """Enqueue workflows one by one; return their ids."""

        def one_after_another(share: int) -> list[str]:
            return [self._client.enqueue(ENQUEUED).workflow_id for _ in range(share)]

        shares = [count // self._size + (number < count % self._size) for number in range(self._size)]
        return {workflow_id for ids in self._threads.map(one_after_another, shares) for workflow_id in ids}

    def run(self) -> None:
        """Enqueue a workflow and wait for its result."""
        self._client.enqueue(ENQUEUED).get_result(polling_interval_sec=RESULT_POLL)

    def unfinished(self) -> bool:
        """Whether a workflow has not ended."""
        return bool(self._client.list_workflows(status=["ENQUEUED", "PENDING"], limit=1, load_input=False))

    def succeeded(self) -> set[str]:
        """Return the ids of all that succeeded, whose outputs were read with them."""
        return {found.workflow_id for found in self._client.list_workflows(status="SUCCESS", load_output=True)}


def enqueue(client: Client, spec: dict[str, Any]) -> None:
    """Enqueue from as many threads as the client has."""
    client.enqueue_many(spec["warmup"])
    started = time.perf_counter()
    client.enqueue_many(spec["count"])
    send({"seconds": time.perf_counter() - started})


def drain(client: Client, spec: dict[str, Any]) -> None:
    """Enqueue workflows while the worker is stopped, then wait for all and read their outputs."""
    ids = client.enqueue_many(spec["count"])
    send("filled")
    while client.unfinished():
        time.sleep(POLL)
    read = client.succeeded()
    send({"ended": time.monotonic(), "read": len(read & ids), "successful": True})


def latency(client: Client, spec: dict[str, Any]) -> None:
    """Enqueue one workflow, wait for its result, then the next."""
    times = []
    for number in range(spec["warmup"] + spec["count"]):
        started = time.perf_counter()
        client.run()
        if number >= spec["warmup"]:
            times.append(time.perf_counter() - started)
    send({"times": times})


if __name__ == "__main__":
    asked = receive()
    {"enqueue": enqueue, "drain": drain, "latency": latency}[asked["work"]](
        Client(asked.get("threads", THREADS)), asked
    )
