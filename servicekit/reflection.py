"""Server reflection that also finds methods, so that grpcurl can describe "package.Service/Method"."""

from collections.abc import Sequence
from typing import Any

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from grpc_reflection.v1alpha import reflection


class _Pool:
    """The default pool, which knows services but, in its C implementation, not their methods by name."""

    def __init__(self) -> None:
        self._pool = descriptor_pool.Default()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:
        """Return the file of a message, enum, service or method. Raises KeyError."""
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            service, _, method = symbol.rpartition(".")
            if method not in self._pool.FindServiceByName(service).methods_by_name:
                raise
            return self._pool.FindFileContainingSymbol(service)


def enable(names: Sequence[str], server: Any) -> None:
    """Let `server` tell about the services with these full names, and about reflection itself."""
    reflection.enable_server_reflection([*names, reflection.SERVICE_NAME], server, pool=_Pool())
