"""Server reflection that finds methods as well, so that grpcurl can describe "package.Service/Method"."""

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, FileDescriptor
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.reflection_pb2_grpc import add_ServerReflectionServicer_to_server

from servicekit.rpc.interceptors.base import Context

DETAILS = "google/rpc/error_details.proto"  # grpcurl decodes the details of errors with it


class _Pool:
    """The default descriptor pool, limited to the files of this server's services.

    Other loaded files are internal. Unlike the default pool's C implementation, this one also finds methods by name.
    """

    def __init__(self, services: Iterable[str]) -> None:
        self._pool = descriptor_pool.Default()
        self._files: set[str] = set()
        for service in services:
            self._add(self._pool.FindFileContainingSymbol(service))
        self._add(self._pool.FindFileByName(DETAILS))

    def FindFileByName(self, name: str) -> FileDescriptor:
        """Return a file. Raises KeyError."""
        return self._shown(self._pool.FindFileByName(name))

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:
        """Return the file of a message, enum, service or method. Raises KeyError."""
        try:
            return self._shown(self._pool.FindFileContainingSymbol(symbol))
        except KeyError:
            service, _, method = symbol.rpartition(".")
            if method not in self._pool.FindServiceByName(service).methods_by_name:
                raise
            return self._shown(self._pool.FindFileContainingSymbol(service))

    def FindMessageTypeByName(self, name: str) -> Descriptor:
        """Return a message. Raises KeyError."""
        found: Descriptor = self._pool.FindMessageTypeByName(name)
        self._shown(found.file)
        return found

    def FindExtensionByNumber(self, message: Descriptor, number: int) -> Any:
        """Return an extension. Raises KeyError."""
        return self._pool.FindExtensionByNumber(message, number)

    def FindAllExtensions(self, message: Descriptor) -> Any:
        """Return the extensions of a message."""
        return self._pool.FindAllExtensions(message)

    def _add(self, file: FileDescriptor) -> None:
        if file.name not in self._files:
            self._files.add(file.name)
            for needed in file.dependencies:
                self._add(needed)

    def _shown(self, file: FileDescriptor) -> FileDescriptor:
        if file.name not in self._files:
            raise KeyError(file.name)
        return file


class _Servicer(reflection.aio.ReflectionServicer):  # type: ignore[misc]
    async def ServerReflectionInfo(self, request_iterator: AsyncIterator[Any], context: Context) -> None:
        """Answer each request. Interceptors need a coroutine, so this writes to the context."""
        async for response in super().ServerReflectionInfo(request_iterator, context):
            await context.write(response)


def enable(names: Sequence[str], services: Any) -> None:
    """Add reflection to `services`, for the services with these full names and for itself."""
    named = [*names, reflection.SERVICE_NAME]
    add_ServerReflectionServicer_to_server(_Servicer(named, pool=_Pool(named)), services)
