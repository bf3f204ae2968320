"""HTTP/2 frames by hand, for what gRPC's own peers never send."""

import socket
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PING, ACK = 6, 1


def frame(kind: int, payload: bytes = b"", *, flags: int = 0, stream: int = 0) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


SETTINGS = frame(4)


def goaway(debug_text: str) -> bytes:
    """A frame that ends a connection, with the sender's words."""
    return frame(7, struct.pack(">II", 0, 2) + debug_text.encode())


def say_good_bye(address: str, debug_text: str) -> None:
    """Connect to HOST:PORT, send a GOAWAY, and return when the server has read it."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection, connection.makefile("rb") as answers:
        connection.sendall(PREFACE + SETTINGS + goaway(debug_text) + frame(PING, b"have you"))
        while header := answers.read(9):
            kind, flags = header[3], header[4]
            answers.read(int.from_bytes(header[:3], "big"))
            if (kind, flags) == (PING, ACK):
                return
