"""What gRPC does not let us do with its sockets, and does not tell of them."""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import suppress

DESCRIPTORS = "/dev/fd"  # of this process, on Linux and macOS


def hang_up(port: int) -> None:
    """Listen at `port` no more and close, for writing, every connection accepted there; what was written arrives.

    A gRPC server that shuts down answers CANCELLED to calls that it has received and not begun, and to those that were
    on their way when it said good-bye (grpc#41785). To callers whose connection ends, all of them are UNAVAILABLE,
    which says that they may be sent again. The listener goes first: who is hung up on calls again at once.
    """
    for descriptor, end in _ends(port):
        if not _is_connected(end):
            end.close()
            _replace(descriptor, end.family)
    for _, end in _ends(port):
        with suppress(OSError):  # the other side was faster
            end.shutdown(socket.SHUT_WR)


def obstacle(address: str) -> str:
    """Say why a server cannot listen at HOST:PORT."""
    host, _, port = address.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        return f"the host {host} is not known; give an address of this machine, or 0.0.0.0 for all of them"
    for family, kind, protocol, _, where in found:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(where)
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                return f"{host} is no address of this machine; give one that is, or 0.0.0.0 for all of them"
            if error.errno != errno.EADDRINUSE:
                return error.strerror or str(error)
    return "is the port taken?"


def _ends(port: int) -> Iterator[tuple[int, socket.socket]]:
    """Yield this process's TCP sockets of `port`: a descriptor, and a copy that is closed afterwards."""
    for name in os.listdir(DESCRIPTORS):
        try:
            copy = os.dup(int(name))
        except OSError:  # the listing's own, for one
            continue
        try:
            end = socket.socket(fileno=copy)
        except OSError:  # no socket
            os.close(copy)
            continue
        with end:
            is_tcp = end.family in (socket.AF_INET, socket.AF_INET6) and end.type == socket.SOCK_STREAM
            if is_tcp and end.getsockname()[1] == port:
                yield int(name), end


def _is_connected(end: socket.socket) -> bool:
    try:
        end.getpeername()
    except OSError:
        return False
    return True


def _replace(descriptor: int, family: int) -> None:
    """Put another listener, where nobody calls, under a descriptor that is gRPC's to watch and to close."""
    with socket.socket(family, socket.SOCK_STREAM) as idle:
        idle.setblocking(False)
        idle.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
        idle.listen(1)
        os.dup2(idle.fileno(), descriptor, inheritable=False)
