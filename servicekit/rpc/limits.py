"""The limits on the memory, calls and connections that callers can take up, and the gRPC options that enforce some."""

from dataclasses import dataclass

METADATA_BYTES = 40 * 1024


@dataclass(frozen=True)
class Limits:
    """The limits of one server process.

    `request_bytes` is the size of the largest request, uncompressed. `streams` bounds the calls in flight on one
    connection, `connections` the connections, `calls` the calls in flight on all of them. `receiving_bytes` bounds the
    memory of all requests together: each counts as `request_bytes` until it has arrived, which may take
    `receive_seconds`, and then as its own size until it is answered. One caller gets at most half of `calls` and of
    `receiving_bytes`, so that no caller can lock out all others.
    """

    request_bytes: int
    streams: int
    connections: int
    calls: int
    receiving_bytes: int
    receive_seconds: float

    @property
    def total_request_bytes(self) -> int:
        """The bound on all requests together; half of it has room for at least one request."""
        return max(2 * self.request_bytes, self.receiving_bytes)

    def options(self) -> tuple[tuple[str, int], ...]:
        """Return the gRPC server's options for the limits that gRPC enforces."""
        return (
            # Also stops the decompression of a message at this size.
            ("grpc.max_receive_message_length", self.request_bytes),
            # A token has at most 32 kB (servicekit/auth/tokens.py). Between a soft and a hard limit gRPC refuses at
            # random, so both are the same.
            ("grpc.max_metadata_size", METADATA_BYTES),
            ("grpc.absolute_max_metadata_size", METADATA_BYTES),
            # Without this, streams that are opened and reset at once fill gRPC's queue of new calls, and gRPC drops
            # other callers' calls from it.
            ("grpc.max_concurrent_streams", self.streams),
            ("grpc.max_allowed_incoming_connections", self.connections),
        )
