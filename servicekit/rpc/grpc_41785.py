"""A workaround for grpc#41785: a gRPC server that shuts down ends calls it has not begun with CANCELLED.

CANCELLED means that the caller cancelled, so no standard retry policy repeats such a call. A call whose connection
ends is UNAVAILABLE, which every policy retries. So before the server shuts down, we close its connections under it.
Retrying CANCELLED in our own clients is not enough: without this module, up to 59 of 64 concurrent callers without our
retry policy got CANCELLED in a stop.

Delete this module, and its call in `Server.stop`, when gRPC ends such calls with UNAVAILABLE: when
tests/faults/test_graceful_stop.py and test_two_of_everything.py pass without that call.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import suppress

DESCRIPTORS = "/dev/fd"  # lists the descriptors of this process, on Linux and macOS


def shutdown_connections(port: int) -> None:
    """Stop listening at `port`, and shut down for writing every connection accepted there. Written data still arrives.

    The listener goes first: clients reconnect as soon as their connection ends.
    """
    for descriptor, endpoint in _sockets_of(port):
        if not _is_connected(endpoint):
            endpoint.close()
            _replace(descriptor, endpoint.family)
    for _, endpoint in _sockets_of(port):
        with suppress(OSError):  # the client closed it first
            endpoint.shutdown(socket.SHUT_WR)


def _sockets_of(port: int) -> Iterator[tuple[int, socket.socket]]:
    """Yield this process's TCP sockets of `port`: each descriptor, and a duplicate that is closed afterwards."""
    for name in os.listdir(DESCRIPTORS):
        try:
            duplicate = os.dup(int(name))
        except OSError:  # closed meanwhile, as the descriptor of the listing itself is
            continue
        try:
            endpoint = socket.socket(fileno=duplicate)
        except OSError:  # not a socket
            os.close(duplicate)
            continue
        with endpoint:
            is_tcp = endpoint.family in (socket.AF_INET, socket.AF_INET6) and endpoint.type == socket.SOCK_STREAM
            if is_tcp and endpoint.getsockname()[1] == port:
                yield int(name), endpoint


def _is_connected(endpoint: socket.socket) -> bool:
    try:
        endpoint.getpeername()
    except OSError:
        return False
    return True


def _replace(descriptor: int, family: int) -> None:
    """Put a listener at a random port under `descriptor`, which gRPC still polls and will close."""
    with socket.socket(family, socket.SOCK_STREAM) as idle:
        idle.setblocking(False)
        idle.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
        idle.listen(1)
        os.dup2(idle.fileno(), descriptor, inheritable=False)
