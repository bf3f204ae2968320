"""Addresses of services, as gRPC takes them: HOST:PORT, or one of its own forms."""

import re

_GRPC_FORM = re.compile(r"(dns|ipv4|ipv6|unix|unix-abstract|vsock|xds):")


def require_target(target: str) -> None:
    """Raise ValueError, which says what is missing, unless `target` is HOST:PORT or has one of gRPC's own schemes."""
    if _GRPC_FORM.match(target):
        return
    if "://" in target:
        raise ValueError(f"{target} is a URL: give HOST:PORT, for instance 127.0.0.1:50051")
    host, separator, port = target.rpartition(":")
    if not separator or not port or target.endswith("]"):
        example = f"{target.removesuffix(':') or '127.0.0.1'}:50051"
        raise ValueError(f"the port is missing in {target!r}: give HOST:PORT, for instance {example}")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError(f"{target} is not HOST:PORT: an IPv6 address stands in brackets, as in [::1]:50051")
    if not host:
        raise ValueError(f"the host is missing in {target!r}: give HOST:PORT, for instance 127.0.0.1{target}")
    if not (port.isascii() and port.isdigit() and 0 < int(port) <= 65535):
        raise ValueError(f"{port} is no port: give HOST:PORT, for instance {host}:50051")
