"""What callers may make a server hold, and the gRPC options that keep them to it."""

from dataclasses import dataclass

METADATA_BYTES = 40 * 1024


@dataclass(frozen=True)
class Limits:
    """The limits of one server process.

    `request_bytes` is the size of the largest request, unpacked. `streams` bounds the calls under way on one
    connection, `connections` the connections, `calls` the calls under way on all of them. `receiving_bytes` is what
    requests may hold together: `request_bytes` each until they have arrived, which takes `receive_seconds` at most, and
    their own size until they are answered. Of `calls` and `receiving_bytes` one caller gets half at most, so that no
    one can keep all others out.
    """

    request_bytes: int
    streams: int
    connections: int
    calls: int
    receiving_bytes: int
    receive_seconds: float

    @property
    def held_bytes(self) -> int:
        """What requests may hold: half of it is room for one request at least."""
        return max(2 * self.request_bytes, self.receiving_bytes)

    def options(self) -> tuple[tuple[str, int], ...]:
        """Return the options of the gRPC server that keep these limits below Python.

        A compressed message is unpacked up to `request_bytes` and no further.
        """
        return (
            ("grpc.max_receive_message_length", self.request_bytes),
            # A token has 32 kB at most (servicekit/auth/tokens.py). Between two limits gRPC would refuse at random.
            ("grpc.max_metadata_size", METADATA_BYTES),
            ("grpc.absolute_max_metadata_size", METADATA_BYTES),
            # Without a bound, streams that are opened and reset at once fill the queue of calls that wait for us, and
            # gRPC drops good ones out of it.
            ("grpc.max_concurrent_streams", self.streams),
            ("grpc.max_allowed_incoming_connections", self.connections),
        )
