"""Server reflection, v1 and v1alpha, that finds methods as well, so that grpcurl can describe "package.Service/Method".

grpcio-reflection has v1alpha only. v1 is the same service under another name: the same messages, byte for byte.
"""

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

import grpc
from google.protobuf import text_format
from google.protobuf.descriptor import Descriptor, FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import Default, DescriptorPool
from grpc_reflection.v1alpha import reflection, reflection_pb2

from servicekit.rpc.interceptors.base import Context

V1ALPHA = reflection.SERVICE_NAME
V1 = "grpc.reflection.v1.ServerReflection"
DETAILS = "google/rpc/error_details.proto"  # grpcurl decodes the details of errors with it


class _Pool:
    """The files of this server's services and what they import, with both versions of reflection.

    Other loaded files are internal, so they are not in it. Unlike protobuf's pools, this one also finds methods by
    name.
    """

    def __init__(self, services: Iterable[str]) -> None:
        self._pool = DescriptorPool()
        self._files: set[str] = set()
        loaded = Default()
        for service in (*services, V1ALPHA):
            self._add(loaded.FindFileContainingSymbol(service))
        self._add(loaded.FindFileByName(DETAILS))
        self._pool.Add(_v1_file())

    def FindFileByName(self, name: str) -> FileDescriptor:
        """Return a file. Raises KeyError."""
        return self._pool.FindFileByName(name)

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:
        """Return the file of a message, enum, service or method. Raises KeyError."""
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            service, _, method = symbol.rpartition(".")
            if method not in self._pool.FindServiceByName(service).methods_by_name:
                raise
            return self._pool.FindFileContainingSymbol(service)

    def FindMessageTypeByName(self, name: str) -> Descriptor:
        """Return a message. Raises KeyError."""
        found: Descriptor = self._pool.FindMessageTypeByName(name)
        return found

    def FindExtensionByNumber(self, message: Descriptor, number: int) -> Any:
        """Return an extension. Raises KeyError."""
        return self._pool.FindExtensionByNumber(message, number)

    def FindAllExtensions(self, message: Descriptor) -> Any:
        """Return the extensions of a message."""
        return self._pool.FindAllExtensions(message)

    def _add(self, file: FileDescriptor) -> None:
        if file.name in self._files:
            return
        self._files.add(file.name)
        for needed in file.dependencies:
            self._add(needed)
        self._pool.Add(_proto(file))


class _Servicer(reflection.aio.ReflectionServicer):  # type: ignore[misc]
    async def ServerReflectionInfo(self, request_iterator: AsyncIterator[Any], context: Context) -> None:
        """Answer each request. Interceptors need a coroutine, so this writes to the context."""
        async for response in super().ServerReflectionInfo(request_iterator, context):
            await context.write(response)


def enable(names: Sequence[str], services: Any) -> None:
    """Add reflection to `services`, for the services with these full names and for itself."""
    handler = grpc.stream_stream_rpc_method_handler(
        _Servicer([*names, V1, V1ALPHA], pool=_Pool(names)).ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    for name in (V1, V1ALPHA):
        generic = grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler})
        services.add_generic_rpc_handlers([generic])


def _v1_file() -> FileDescriptorProto:
    text = text_format.MessageToString(_proto(reflection_pb2.DESCRIPTOR))
    return text_format.Parse(text.replace("v1alpha", "v1"), FileDescriptorProto())


def _proto(file: FileDescriptor) -> FileDescriptorProto:
    proto = FileDescriptorProto()
    file.CopyToProto(proto)
    return proto
