"""gRPC options that servers and channels have in common."""

MAX_RESPONSE_BYTES = 16 * 1024 * 1024


def ping_timeout(seconds: int) -> tuple[tuple[str, int], ...]:
    """Return the gRPC options that close a connection whose peer does not answer a ping within `seconds`.

    The first, documented one alone has no effect: gRPC waits for a minute (grpc#39239).
    """
    return ("grpc.keepalive_timeout_ms", seconds * 1000), ("grpc.http2.ping_timeout_ms", seconds * 1000)
