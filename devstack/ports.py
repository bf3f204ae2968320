"""Loopback ports."""

import itertools
import random
import socket

from devstack.errors import StackError

HOST = "127.0.0.1"
# Below the ports that Linux and macOS give to outgoing connections: no client takes the port of a process that is being
# restarted.
FREE_PORTS = range(20_000, 32_000)


def free_ports(count: int) -> list[int]:
    """Return `count` ports of the loopback interface on which no server listens, and which no other call returns.

    Raises StackError when there are not as many.
    """
    candidates = random.sample(FREE_PORTS, len(FREE_PORTS))
    ports = list(itertools.islice((port for port in candidates if is_free(port) and reserve(port)), count))
    if len(ports) < count:
        raise StackError(f"there are no {count} free ports between {FREE_PORTS.start} and {FREE_PORTS.stop} on {HOST}")
    return ports


def reserve(port: int) -> bool:
    """Keep `port` from other calls of `free_ports` until this process ends; say whether none of them has it.

    Who is given a port takes a while to listen there, and does not listen while it is restarted. The mark is the UDP
    port of the same number, which every process of the machine sees, and which nobody else has a use for.
    """
    with socket.socket(type=socket.SOCK_DGRAM) as mark:
        try:
            mark.bind((HOST, port))
        except OSError:
            return False
        mark.detach()
    return True


def require_free(port: int, option: str) -> int:
    """Return `port`. Raises StackError, naming the `option` that chooses another, when a server listens there."""
    if not is_free(port):
        raise StackError(f"port {port} on {HOST} is taken by another program; choose a free one with {option}")
    return port


def is_free(port: int) -> bool:
    """Say whether a server could listen on `port` of the loopback interface now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # closed connections that linger do no harm
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
