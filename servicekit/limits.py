"""What callers may make a server hold, and the gRPC options that keep them to it."""

from dataclasses import dataclass

METADATA_BYTES = 40 * 1024


@dataclass(frozen=True)
class Limits:
    """The limits of one server process.

    `request_bytes` is the size of the largest request, unpacked. `streams` bounds the calls under way on one
    connection, `connections` the connections, `calls` the calls under way on all of them. `receiving_bytes` is what
    requests that have not arrived completely may hold together, for `receive_seconds` each. Of `calls` and
    `receiving_bytes` one caller gets half at most, so that no one can keep all others out.
    """

    request_bytes: int
    streams: int
    connections: int
    calls: int
    receiving_bytes: int
    receive_seconds: float

    @property
    def receiving(self) -> int:
        """How many requests may be received at once; the length of each is known only when it is there."""
        return max(2, self.receiving_bytes // self.request_bytes)

    def options(self) -> tuple[tuple[str, int], ...]:
        """Return the options of the gRPC server that keep these limits below Python.

        A compressed message is unpacked up to `request_bytes` and no further.
        """
        return (
            ("grpc.max_receive_message_length", self.request_bytes),
            # A token has 32 kB at most (servicekit/tokens.py). Between two limits gRPC would refuse at random.
            ("grpc.max_metadata_size", METADATA_BYTES),
            ("grpc.absolute_max_metadata_size", METADATA_BYTES),
            # Without a bound, streams that are opened and reset at once fill the queue of calls that wait for us, and
            # gRPC drops good ones out of it.
            ("grpc.max_concurrent_streams", self.streams),
            ("grpc.max_allowed_incoming_connections", self.connections),
        )
