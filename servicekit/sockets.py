"""What gRPC does not let us do with its connections."""

import os
import socket
from contextlib import suppress

DESCRIPTORS = "/dev/fd"  # of this process, on Linux and macOS


def hang_up(port: int) -> None:
    """Close, for writing, every connection that was accepted at `port`; what was written before still arrives.

    A gRPC server that shuts down answers CANCELLED to calls it has received and not begun, and to those that were on
    their way when it said good-bye (grpc#41785). To callers whose connection ends all of them are UNAVAILABLE, which
    says that they may be sent again.
    """
    connections = _connections(port)  # all of them first: who is hung up on calls again at once
    for connection in connections:
        with suppress(OSError), connection:
            connection.shutdown(socket.SHUT_WR)


def _connections(port: int) -> list[socket.socket]:
    found = []
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
        if _is_connection(end, port):
            found.append(end)
        else:
            end.close()
    return found


def _is_connection(end: socket.socket, port: int) -> bool:
    if end.family not in (socket.AF_INET, socket.AF_INET6) or end.type != socket.SOCK_STREAM:
        return False
    try:
        end.getpeername()
    except OSError:  # it listens, or the other side has gone
        return False
    return bool(end.getsockname()[1] == port)
