"""A bare grpc.aio server: `python -m benchmarks.loads.echo PORT`.

The most that a Python server could do for CreateRun: it reads the same request and writes a response of the same
size, at the same path, and does nothing else. No interceptors, no options, no token is looked at.
"""

import asyncio
import sys

import grpc
from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2 import CreateRunRequest, CreateRunResponse

from servicekit.ids import uuid7


async def create_run(request: CreateRunRequest, _context: object) -> CreateRunResponse:
    """Answer with the request's values in a run, as large as a real one."""
    run = Run(
        id=RUN_ID,
        project_id=request.project_id,
        playbook_id=request.playbook_id,
        run_type=request.run_type,
        status=Run.QUEUED,
        scope_id=request.scope_id,
        rules_hash=request.rules_hash,
        idempotency_key=request.idempotency_key,
        created_by_user_id="local-user",
        sequence=1,
    )
    run.meta.deadline_seconds = 600
    run.created_at.GetCurrentTime()
    run.updated_at.CopyFrom(run.created_at)
    return CreateRunResponse(run=run, created=True)


async def serve(port: int) -> None:
    """Serve until killed."""
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(
        create_run,
        request_deserializer=CreateRunRequest.FromString,
        response_serializer=CreateRunResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("playbooks.runs.v1.RunsService", {"CreateRun": handler})]
    )
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    print("ready", flush=True)
    await server.wait_for_termination()


RUN_ID = uuid7()

if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
