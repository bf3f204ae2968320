"""What health and reflection, which are open to everyone, answer to garbage, and what reflection shows."""

import asyncio

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from tests.support.forking import Forks
from tests.support.service import ServiceProcess
from tests.support.shop import refusal

REFLECTION = [f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo" for version in ("v1", "v1alpha")]
DEADLINE = 20  # seconds of a call


GARBAGE = (b"\xff", b"\x0a\xff", b"\x00" * 50, b"\x0b" * 100, bytes(range(256)))


@pytest.mark.parametrize(
    "method",
    [
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        *REFLECTION,
    ],
)
async def test_garbage_to_open_services_is_bad_input(runs_process: ServiceProcess, method: str) -> None:
    async with grpc.aio.insecure_channel(runs_process.target) as channel:
        for body in GARBAGE:
            call = channel.stream_stream(method)(iter([body]), timeout=DEADLINE)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                async for _ in call:
                    pass
            error = refusal(caught.value)
            assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "VALIDATION_FAILED"), body
    assert runs_process.tracebacks == 0


async def reflected(
    target: str, method: str, *requests: reflection_pb2.ServerReflectionRequest
) -> list[reflection_pb2.ServerReflectionResponse]:
    """Return what reflection answers to each request."""
    async with grpc.aio.insecure_channel(target) as channel:
        call = channel.stream_stream(
            method,
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        return [answer async for answer in call(iter(requests), timeout=DEADLINE)]


async def symbols(target: str, method: str, *names: str) -> list[bool]:
    """Return whether reflection finds each of these names."""
    asked = [reflection_pb2.ServerReflectionRequest(file_containing_symbol=name) for name in names]
    return [answer.HasField("file_descriptor_response") for answer in await reflected(target, method, *asked)]


@pytest.mark.parametrize("method", REFLECTION)
async def test_reflection_describes_what_the_port_serves_and_nothing_else(
    runs_process: ServiceProcess, executor_process: ServiceProcess, method: str
) -> None:
    served = ("playbooks.runs.v1.RunsService.CreateRun", "playbooks.runs.v1.Run", "google.rpc.ErrorInfo")
    internal = ("playbooks.executor.v1.RunJob", "playbooks.executor.v1.RunEventBatch", "x" * 1_000, "", "..")
    answers = await symbols(runs_process.target, method, *served, *internal)
    assert answers == [True] * len(served) + [False] * len(internal)
    assert await symbols(executor_process.target, method, "playbooks.executor.v1.CatalogService.PutProducts") == [True]


@pytest.mark.parametrize("method", REFLECTION)
async def test_reflection_lists_and_describes_both_versions_of_itself(
    runs_process: ServiceProcess, method: str
) -> None:
    listing = reflection_pb2.ServerReflectionRequest(list_services="")
    itself = {name.split("/")[1] for name in REFLECTION}
    [listed] = await reflected(runs_process.target, method, listing)
    others = {"playbooks.runs.v1.RunsService", "grpc.health.v1.Health"}
    assert {service.name for service in listed.list_services_response.service} == itself | others
    for name in itself:
        described = reflection_pb2.ServerReflectionRequest(file_containing_symbol=f"{name}.ServerReflectionInfo")
        [answer] = await reflected(runs_process.target, method, described)
        [file] = answer.file_descriptor_response.file_descriptor_proto
        proto = FileDescriptorProto.FromString(file)
        assert f"{proto.package}.{proto.service[0].name}" == name
        assert proto.service[0].method[0].input_type == f".{proto.package}.ServerReflectionRequest"


async def test_reflection_can_be_turned_off(
    executor_forks: Forks, executor_database: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    environment = {"EXECUTOR_DATABASE_URL": executor_database, "REFLECTION": "false"}
    with ServiceProcess(
        executor_forks, "executor", tmp_path_factory.mktemp("executor") / "log", environment
    ) as service:
        # Not grpc.aio: where a call ends while its request is being sent, that says INTERNAL ("execute_batch").
        with grpc.insecure_channel(service.target) as blocking:
            for method in REFLECTION:
                call = blocking.stream_stream(method)(iter([b""]), timeout=DEADLINE)
                assert await asyncio.to_thread(call.code) is grpc.StatusCode.UNIMPLEMENTED
        async with grpc.aio.insecure_channel(service.target) as channel:
            await health_pb2_grpc.HealthStub(channel).Check(reflection_pb2.ServerReflectionRequest(), timeout=DEADLINE)
