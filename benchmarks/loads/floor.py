"""The least a run can take: the contract's steps over the same libraries, with nothing in them.

`python -m benchmarks.loads.floor serve PORT` answers CreateRun and WatchRun, `... work` executes. Four commits of a row
(run, inbox, outcome, change) and two messages over Kombu, each after the commit before it; no token, check, lease,
history, log line, batch, retry or second try, and one run at a time. It is a lower bound and no product.
"""

import asyncio
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import kombu
import psycopg
import uvloop
from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2 import CreateRunRequest, CreateRunResponse, WatchRunRequest, WatchRunResponse
from playbooks.runs.v1.runs_service_pb2_grpc import RunsServiceServicer, add_RunsServiceServicer_to_server

from servicekit.ids import uuid7

BROKER, DATABASE = "BENCH_BROKER_URL", "BENCH_DATABASE_URL"
JOBS, EVENTS = (kombu.Queue(name, routing_key=name) for name in ("floor.jobs", "floor.events"))
SCHEMA = """
CREATE TABLE runs (id uuid PRIMARY KEY, status text NOT NULL);
CREATE TABLE executions (id uuid PRIMARY KEY, status text NOT NULL);
"""
ENDED = """
SELECT count(*) FROM runs JOIN executions USING (id) WHERE runs.status = 'SUCCEEDED' AND executions.status = 'SUCCEEDED'
"""


def producer() -> kombu.Producer:
    """Return a producer on a connection of its own."""
    return kombu.Producer(kombu.Connection(os.environ[BROKER]).channel(), auto_declare=False)


def put(sender: kombu.Producer, queue: kombu.Queue, run_id: str) -> None:
    """Publish a run's id."""
    sender.publish(run_id.encode(), routing_key=queue.routing_key, content_encoding="binary", content_type="text/plain")


class Floor(RunsServiceServicer):  # type: ignore[misc]
    """Both calls of a run, each step after the commit before it."""

    def __init__(self, database: psycopg.AsyncConnection[object]) -> None:
        self._database = database
        self._thread = ThreadPoolExecutor(1)
        self._producer = producer()
        self._ended: dict[str, asyncio.Future[None]] = {}

    async def CreateRun(self, request: CreateRunRequest, context: object) -> CreateRunResponse:
        """Store the run, have it published, and answer meanwhile."""
        run = Run(id=uuid7(), project_id=request.project_id, status=Run.QUEUED, sequence=1)
        await self._database.execute("INSERT INTO runs VALUES (%s, 'QUEUED')", [run.id])
        loop = asyncio.get_running_loop()
        self._ended[run.id] = loop.create_future()
        loop.run_in_executor(self._thread, put, self._producer, JOBS, run.id)
        return CreateRunResponse(run=run, created=True)

    async def WatchRun(self, request: WatchRunRequest, context: grpc.aio.ServicerContext) -> None:  # type: ignore[type-arg]
        """Send the run as it was created, and its end."""
        run = Run(id=request.run_id, status=Run.QUEUED, sequence=1)
        await context.write(WatchRunResponse(kind=WatchRunResponse.SNAPSHOT, run=run))
        await self._ended[run.id]
        del self._ended[run.id]
        run.status = Run.SUCCEEDED
        await context.write(WatchRunResponse(kind=WatchRunResponse.UPDATED, run=run))

    async def change(self, run_id: str) -> None:
        """Store the change of an event, and wake the watcher."""
        await self._database.execute("UPDATE runs SET status = 'SUCCEEDED' WHERE id = %s", [run_id])
        self._ended[run_id].set_result(None)


def consume(loop: asyncio.AbstractEventLoop, floor: Floor) -> None:
    """Consume events for ever."""

    def take(message: kombu.Message) -> None:
        asyncio.run_coroutine_threadsafe(floor.change(bytes(message.body).decode()), loop).result()
        message.ack()

    with kombu.Connection(os.environ[BROKER]) as connection:
        kombu.Consumer(connection.channel(), [EVENTS], on_message=take).consume()
        while True:
            connection.drain_events()


async def serve(port: int) -> None:
    """Serve until killed."""
    async with await psycopg.AsyncConnection.connect(os.environ[DATABASE], autocommit=True) as database:
        await database.execute(SCHEMA)
        floor = Floor(database)
        server = grpc.aio.server()
        add_RunsServiceServicer_to_server(floor, server)
        server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        threading.Thread(target=consume, args=(asyncio.get_running_loop(), floor), daemon=True).start()
        print("ready", flush=True)
        await server.wait_for_termination()


def work() -> None:
    """Execute runs, of which each does nothing, until killed. No event loop: a thread that waits is faster."""
    events = producer()
    with (
        psycopg.connect(os.environ[DATABASE], autocommit=True) as database,
        kombu.Connection(os.environ[BROKER]) as connection,
    ):

        def take(message: kombu.Message) -> None:
            run_id = bytes(message.body).decode()
            database.execute("INSERT INTO executions VALUES (%s, 'RUNNING')", [run_id])
            message.ack()
            database.execute("UPDATE executions SET status = 'SUCCEEDED' WHERE id = %s", [run_id])
            put(events, EVENTS, run_id)

        kombu.Consumer(connection.channel(), [JOBS], on_message=take).consume()
        print("ready", flush=True)
        while True:
            connection.drain_events()


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        uvloop.run(serve(int(sys.argv[2])))
    else:
        work()
