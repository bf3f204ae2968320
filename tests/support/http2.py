"""HTTP/2 frames made by hand: what no gRPC client sends, for those who attack a server (RFC 9113, RFC 7541)."""

import gzip
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from types import TracebackType
from typing import NamedTuple, Self

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS, ACK = 0x1, 0x4, 0x1
CANCEL = 8
INITIAL_WINDOW_SIZE = 4  # a setting
TIMEOUT = 30.0  # seconds


class Frame(NamedTuple):
    """A frame as it came."""

    kind: int
    flags: int
    stream: int
    payload: bytes


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return a frame as it goes over the wire."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def headers(*fields: tuple[str, str]) -> bytes:
    """Return a header block of literals that nobody keeps in a table; values are in Latin-1."""
    return b"".join(b"\x00" + _string(name.encode()) + _string(value.encode("latin-1")) for name, value in fields)


def _string(value: bytes) -> bytes:
    """Return a string without Huffman coding; its length is an integer with a prefix of 7 bits."""
    if len(value) < 127:
        return bytes([len(value)]) + value
    rest, length = len(value) - 127, b"\x7f"
    while rest >= 128:
        length += bytes([rest % 128 | 128])
        rest //= 128
    return length + bytes([rest]) + value


def message(body: bytes, *, announced: int | None = None) -> bytes:
    """Return a gRPC message; `announced` is the length that it claims."""
    return b"\0" + struct.pack(">I", len(body) if announced is None else announced) + body


def zipped(size: int) -> bytes:
    """Return a small compressed gRPC message that unpacks to `size` bytes."""
    body = gzip.compress(b"\0" * size)
    return b"\1" + struct.pack(">I", len(body)) + body


class Connection:
    """A connection to HOST:PORT that gives the server all the window it may want, and reads on demand."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._host = target
        self._socket = socket.create_connection((host, int(port)), timeout=TIMEOUT)
        self._read = b""
        self._stream = -1
        self.seen: Counter[int] = Counter()  # frames that came, by kind
        self._window = self._initial = 65_535  # bytes of DATA that the server takes now: in all, and on a new stream
        self._windows: dict[int, int] = {}  # on streams it takes more or less on
        self.send(PREFACE + frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW_SIZE, 2**31 - 1)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._socket.sendall(data)

    def call(self, method: str, *fields: tuple[str, str]) -> tuple[int, bytes]:
        """Return the number of a new stream, and the frame that begins a call of /package.Service/Method on it."""
        self._stream += 2
        block = headers(
            (":method", "POST"),
            (":scheme", "http"),
            (":path", method),
            (":authority", self._host),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            *fields,
        )
        return self._stream, frame(HEADERS, END_HEADERS, self._stream, block)

    def frames(self) -> Iterator[Frame]:
        """Yield what the server sends until it hangs up, and acknowledge what it wants acknowledged."""
        while True:
            while len(self._read) < 9:
                if not self._more():
                    return
            length = int.from_bytes(self._read[:3])
            while len(self._read) < 9 + length:
                if not self._more():
                    return
            kind, flags, stream = self._read[3], self._read[4], int.from_bytes(self._read[5:9])
            payload, self._read = self._read[9 : 9 + length], self._read[9 + length :]
            received = Frame(kind, flags, stream, payload)
            self.seen[kind] += 1
            self._answer(received)
            yield received

    def upload(self, bodies: dict[int, bytes], *, patience: float) -> int:
        """Send DATA on streams, as far as the server takes it; return how many bytes it took.

        Ends when all is sent, or the server hangs up or takes nothing more for `patience` seconds.
        """
        waiting, sent = {stream: memoryview(body) for stream, body in bodies.items()}, 0
        while waiting:
            for stream, body in list(waiting.items()):
                window = min(self._windows.get(stream, self._initial), self._window)
                part = body[: max(0, min(window, 16_384))]
                if part:
                    self.send(frame(DATA, 0, stream, bytes(part)))
                    sent += len(part)
                    self._window -= len(part)
                    self._windows[stream] = self._windows.get(stream, self._initial) - len(part)
                    waiting[stream] = body[len(part) :]
                if not waiting[stream]:
                    del waiting[stream]
            if not any(min(self._windows.get(stream, self._initial), self._window) > 0 for stream in waiting):
                received = self._next(patience)
                if received is None:
                    break
                if received.kind == RST_STREAM or (received.kind == HEADERS and received.flags & END_STREAM):
                    waiting.pop(received.stream, None)
        return sent

    def listen(self, seconds: float) -> None:
        """Take in what the server sends until it hangs up or nothing came for so many seconds."""
        while self._next(seconds):
            pass

    def _next(self, seconds: float) -> Frame | None:
        """Return the next frame; None when none comes in time, or none ever will."""
        self._socket.settimeout(seconds)
        try:
            return next(self.frames(), None)
        except TimeoutError:
            return None
        finally:
            self._socket.settimeout(TIMEOUT)

    def _answer(self, received: Frame) -> None:
        kind, flags, stream, payload = received
        if kind == SETTINGS and not flags & ACK:
            for at in range(0, len(payload), 6):
                name, value = struct.unpack(">HI", payload[at : at + 6])
                if name == INITIAL_WINDOW_SIZE:
                    self._windows = {s: window + value - self._initial for s, window in self._windows.items()}
                    self._initial = value
            self.send(frame(SETTINGS, ACK, 0))
        elif kind == PING and not flags & ACK:
            self.send(frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE:
            more = int.from_bytes(payload) & 0x7FFFFFFF
            if stream:
                self._windows[stream] = self._windows.get(stream, self._initial) + more
            else:
                self._window += more

    def _more(self) -> bool:
        try:
            received = self._socket.recv(65_536)
        except ConnectionError:
            return False
        self._read += received
        return bool(received)


def goaway(debug_text: str) -> bytes:
    """Return the frame that ends a connection, with the sender's words."""
    return frame(GOAWAY, 0, 0, struct.pack(">II", 0, 2) + debug_text.encode())


def say_good_bye(target: str, debug_text: str) -> None:
    """Connect to HOST:PORT, send a GOAWAY, and return when the server has read it."""
    with Connection(target) as connection:
        connection.send(goaway(debug_text) + frame(PING, 0, 0, b"have you"))
        for received in connection.frames():
            if (received.kind, received.flags) == (PING, ACK):
                return
