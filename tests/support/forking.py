"""The playbook-runs command in processes of its own that need not load it: each is forked off one that has it loaded.

`Forks` is the test's side. The other one, `python -m tests.support.forking`, runs what `playbook-runs` runs, and a
forked process ends as any Python process does: with its exit handlers, and with what SystemExit says.
"""

import json
import os
import selectors
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

ROOM = 1 << 20  # bytes of one request: arguments and environment
STREAMS = {"stdin": "r", "stdout": "w", "stderr": "w"}


class Forks:
    """A process that has the command loaded; use it with `with`."""

    def __enter__(self) -> Self:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())], pass_fds=[theirs.fileno()]
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._socket.close()
        self._process.wait()

    def start(
        self, arguments: Sequence[str], *, env: Mapping[str, str], folder: Path, streams: tuple[int, int, int]
    ) -> "Forked":
        """Start the command with these descriptors for standard input, output and error."""
        ours, theirs = os.pipe()
        request = json.dumps(
            {
                "arguments": [_text(argument) for argument in arguments],
                "env": {_text(name): _text(value) for name, value in env.items()},
                "folder": str(folder),
            }
        )
        with open(theirs, "wb"):
            socket.send_fds(self._socket, [request.encode()], [*streams, theirs])
        return Forked(open(ours, "rb"))


class Forked:
    """A process that was forked off."""

    def __init__(self, code: IO[bytes]) -> None:
        self._code = code

    def wait(self) -> int:
        """Return its exit code, once it has ended; -9 when it was killed."""
        with self._code as code:
            return int(code.readline())


def _text(argument: str) -> str:
    """Return an argument in characters that JSON takes: it may have bytes that are no UTF-8."""
    return os.fsencode(argument).decode("latin-1")


def _argument(text: str) -> str:
    return os.fsdecode(text.encode("latin-1"))


def serve(requests: socket.socket) -> None:
    """Fork for each request until nobody makes any; in a forked process, return."""
    running: dict[int, tuple[int, int]] = {}  # by a pipe that ends with it: a process, and where its exit code goes
    with selectors.DefaultSelector() as selector:
        selector.register(requests, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is not requests:
                    selector.unregister(key.fd)
                    pid, code = running.pop(key.fd)
                    _, status = os.waitpid(pid, 0)
                    os.write(code, f"{os.waitstatus_to_exitcode(status)}\n".encode())
                    os.close(code)
                    os.close(key.fd)
                    continue
                request, fds, _, _ = socket.recv_fds(requests, ROOM, 4)
                if not request:
                    os._exit(0)
                alive, end = os.pipe()
                pid = os.fork()
                if pid == 0:
                    requests.close()
                    _become(request, fds)
                    return
                os.close(end)
                for fd in fds[:3]:
                    os.close(fd)
                running[alive] = pid, fds[3]
                selector.register(alive, selectors.EVENT_READ)


def _become(request: bytes, fds: Sequence[int]) -> None:
    """Take on what a new process would have got."""
    wanted = json.loads(request)
    for own, given in enumerate(fds[:3]):
        os.dup2(given, own)
    for fd in fds:
        os.close(fd)
    os.chdir(wanted["folder"])
    os.environ.clear()
    os.environ.update({_argument(name): _argument(value) for name, value in wanted["env"].items()})
    sys.argv[1:] = map(_argument, wanted["arguments"])
    for name, mode in STREAMS.items():  # what they are connected to is looked at when they are opened
        old = getattr(sys, name)
        new = open(old.fileno(), mode, encoding=old.encoding, errors=old.errors, closefd=False)  # noqa: SIM115  # it lasts
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)


if __name__ == "__main__":
    import servicekit.auth.tokens
    import servicekit.config.certificates  # noqa: F401  # what sub-commands load late
    from runs_client.__main__ import build_app, main

    build_app()  # loads the sub-commands
    serve(socket.socket(fileno=int(sys.argv.pop(1))))
    sys.exit(main())  # type: ignore[func-returns-value]
