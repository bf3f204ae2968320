"""The limits on the memory, calls and connections that callers can take up, and the gRPC options that enforce some."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The limits of one server process.

    `request_bytes` is the size of the largest request, uncompressed, and `metadata_bytes` that of its metadata.
    `streams` bounds the calls in flight on one connection, `connections` the connections, `calls` the calls in flight
    on all of them, and `watches` those of them that stream answers. `receiving_bytes` bounds the memory of all requests
    together: each counts as `request_bytes` until it has arrived, which may take `receive_seconds`, and then as its own
    size until it is answered.

    One caller gets `calls_per_caller` and `watches_per_caller`, and at most half of `calls`, `watches` and
    `receiving_bytes`, so that no caller can lock out all others.

    A connection that is `connection_age_seconds` old (give or take a tenth, so that not all end at once) gets no new
    calls; those in flight have `connection_grace_seconds` to end. So callers find replicas that were added.
    """

    request_bytes: int
    metadata_bytes: int
    streams: int
    connections: int
    connection_age_seconds: float
    connection_grace_seconds: float
    calls: int
    calls_per_caller: int
    watches: int
    watches_per_caller: int
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
            # Between a soft and a hard limit gRPC refuses at random, so both are the same.
            ("grpc.max_metadata_size", self.metadata_bytes),
            ("grpc.absolute_max_metadata_size", self.metadata_bytes),
            # Without this, streams that are opened and reset at once fill gRPC's queue of new calls, and gRPC drops
            # other callers' calls from it.
            ("grpc.max_concurrent_streams", self.streams),
            ("grpc.max_allowed_incoming_connections", self.connections),
            ("grpc.max_connection_age_ms", int(self.connection_age_seconds * 1000)),
            ("grpc.max_connection_age_grace_ms", int(self.connection_grace_seconds * 1000)),
        )
