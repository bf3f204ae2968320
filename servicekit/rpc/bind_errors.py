"""Why a server cannot listen at an address: gRPC does not say."""

import errno
import socket


def explain_bind_error(address: str) -> str:
    """Return the reason why a server cannot listen at HOST:PORT, and what to change."""
    host, _, port = address.rpartition(":")
    try:
        resolved = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        return f"the host {host} is not known; give an address of this machine, or 0.0.0.0 for all of them"
    for family, kind, protocol, _, endpoint in resolved:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(endpoint)
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                return f"{host} is no address of this machine; give one that is, or 0.0.0.0 for all of them"
            if error.errno != errno.EADDRINUSE:
                return error.strerror or str(error)
    return "is the port taken?"
