"""Commands in processes of their own that need not load them: each is forked off one that has it loaded.

`Forks` is the test's side; the other one is `python -m tests.support.forking`. Loading takes a third
of a second for `playbook-runs`, and a whole one for a service; all workers of a session share who has done it.
"""

import contextlib
import fcntl
import gc
import importlib
import io
import json
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, NoReturn, Self

Command = Callable[[], int | None]

ROOM = 1 << 20  # bytes of one request: arguments and environment
STREAMS = {"stdin": "r", "stdout": "w", "stderr": "w"}


class Forks:
    """A process that has a command loaded, one of COMMANDS; use it with `with`.

    It is forked off the session's one in `folder`, which the first worker that needs it starts.
    """

    def __init__(self, command: str, folder: Path) -> None:
        self._command = command
        self._folder = folder

    def __enter__(self) -> Self:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with locked(self._folder, self._command) as address:
            try:
                self._socket.connect(address)
            except OSError:  # there is none, or one that was killed
                self._load(address)
                self._socket.connect(address)
        return self

    def __exit__(self, *_: object) -> None:
        """End it, and return when all that still ran are gone."""
        self._socket.shutdown(socket.SHUT_WR)
        self._socket.recv(1)
        self._socket.close()

    def _load(self, address: str) -> None:
        Path(address).unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as theirs:
            theirs.bind(address)
            theirs.listen()
            line = [sys.executable, "-m", __name__, self._command, str(self._folder), str(theirs.fileno())]
            subprocess.run(line, pass_fds=[theirs.fileno()], check=True)

    def start(
        self, arguments: Sequence[str], *, env: Mapping[str, str], folder: Path, streams: tuple[int, int, int]
    ) -> "Forked":
        """Run the command with these descriptors for standard input, output and error."""
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

    def run(self, log: Path, *arguments: str, env: Mapping[str, str], mode: str = "wb") -> "Forked":
        """Run the command, and let it write into `log`, which is made anew; by `mode` "ab" it goes on."""
        with open(os.devnull, "rb") as nothing, log.open(mode) as output:
            streams = (nothing.fileno(), output.fileno(), output.fileno())
            return self.start(arguments, env=env, folder=log.parent, streams=streams)


class LoadedOnce(contextlib.ExitStack):
    """All of COMMANDS, each loaded when the session needs it first; use it with `with`. Processes end with it."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._forks: dict[str, Forks] = {}

    def of(self, command: str) -> Forks:
        """Return the forks of one of COMMANDS."""
        if command not in self._forks:
            self._forks[command] = self.enter_context(Forks(command, self._folder))
        return self._forks[command]

    def spawn(
        self,
        command: Sequence[str | Path],
        *,
        env: Mapping[str, str],
        log: Path,
        death_signal: signal.Signals = signal.SIGKILL,
        user: str | None = None,
        keep_open: Iterable[int] = (),
    ) -> "Forked":
        """Do what `devstack.process.spawn` does for `python -m MODULE`, but for the lock of the data's folder."""
        del keep_open
        _, option, module, *arguments = map(str, command)
        assert (option, death_signal, user) == ("-m", signal.SIGKILL, None)
        return self.of(module.replace("_", "-")).run(log, *arguments, env=env, mode="ab")


class Forked:
    """A process that was forked off; what it has to say of it is that of `subprocess.Popen`."""

    def __init__(self, news: IO[bytes]) -> None:
        self._news = news
        self.pid = int(news.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self.returncode if self._wait(0) else None

    def wait(self, timeout: float | None = None) -> int:
        if not self._wait(timeout):
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once, and return when it is gone."""
        self.send_signal(signal.SIGKILL)
        self.wait()

    def _wait(self, timeout: float | None) -> bool:
        if self.returncode is None and select.select([self._news], [], [], timeout)[0]:
            with self._news as news:
                self.returncode = int(news.readline())
        return self.returncode is not None


def _text(argument: str) -> str:
    """Return an argument in characters that JSON takes: it may have bytes that are no UTF-8."""
    return os.fsencode(argument).decode("latin-1")


def _argument(text: str) -> str:
    return os.fsdecode(text.encode("latin-1"))


@contextlib.contextmanager
def locked(folder: Path, command: str) -> Iterator[str]:
    """Keep others from starting, reaching and ending who has a command loaded; its address is returned."""
    with (folder / f"{command}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield str(folder / f"{command}.socket")


def share(listener: socket.socket, folder: Path, command: str) -> socket.socket:
    """Fork for each test process that connects until none is left; in a forked process, return the connection."""
    serving: dict[int, int] = {}  # by a pipe that ends with it: a process
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is listener:
                    connection, _ = listener.accept()
                    alive, end = os.pipe()
                    pid = os.fork()
                    if pid == 0:
                        listener.close()
                        return connection
                    connection.close()
                    os.close(end)
                    serving[alive] = pid
                    selector.register(alive, selectors.EVENT_READ)
                    continue
                selector.unregister(key.fd)
                os.waitpid(serving.pop(key.fd), 0)
                os.close(key.fd)
            if not serving:
                with locked(folder, command) as address:
                    if not select.select([listener], [], [], 0)[0]:
                        os.unlink(address)
                        os._exit(0)


def serve(requests: socket.socket, defaults: Mapping[str, str]) -> None:
    """Fork for each request until nobody makes any; in a forked process, return.

    `defaults` are the variables that a command sets for itself when it is loaded.
    """
    running: dict[int, tuple[int, int]] = {}  # by a pipe that ends with it: a process, and where its end is reported
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
                    for pid, _ in running.values():
                        os.kill(pid, signal.SIGKILL)
                    for pid, _ in running.values():
                        os.waitpid(pid, 0)
                    os._exit(0)
                alive, end = os.pipe()
                pid = os.fork()
                if pid == 0:
                    requests.close()
                    _become(request, fds, defaults)
                    return
                os.close(end)
                for fd in fds[:3]:
                    os.close(fd)
                os.write(fds[3], f"{pid}\n".encode())
                running[alive] = pid, fds[3]
                selector.register(alive, selectors.EVENT_READ)


def _become(request: bytes, fds: Sequence[int], defaults: Mapping[str, str]) -> None:
    """Take on what a new process would have got."""
    wanted = json.loads(request)
    for own, given in enumerate(fds[:3]):
        os.dup2(given, own)
    for fd in fds:
        os.close(fd)
    os.chdir(wanted["folder"])
    os.environ.clear()
    os.environ.update(defaults)
    os.environ.update({_argument(name): _argument(value) for name, value in wanted["env"].items()})
    sys.argv = [sys.argv[1], *map(_argument, wanted["arguments"])]
    for name, mode in STREAMS.items():  # what they are connected to is looked at when they are opened
        old = getattr(sys, name)
        new = open(old.fileno(), mode, encoding=old.encoding, errors=old.errors, closefd=False)  # noqa: SIM115  # it lasts
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)


def _end(command: Command) -> NoReturn:
    """Run a command and end as Python would, but for the fifth of a second in which it would take everything apart."""
    code: object = 1
    try:
        code = command()
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


def _client() -> Command:
    """Return `playbook-runs` with all loaded that it ever needs, which typer does as late as it can."""
    from runs_client.__main__ import build_app, main

    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        build_app()(["list", "--help"])
    for late in ("runs_client.demo", "servicekit.auth.tokens", "servicekit.config.certificates"):
        importlib.import_module(late)
    return main


def _executor() -> Command:
    from executor_service.__main__ import main

    _load_migrations()
    return main


def _runs() -> Command:
    from runs_service.__main__ import main

    _load_migrations()
    return main


def _gateway() -> Command:
    from gateway.__main__ import main

    return main


def _load_migrations() -> None:
    """Load what `migrate` loads as late as it can."""
    for late in ("servicekit.postgres.migrations", "alembic.command"):
        importlib.import_module(late)


COMMANDS: Mapping[str, Callable[[], Command]] = {
    "playbook-runs": _client,
    "executor-service": _executor,
    "gateway": _gateway,
    "runs-service": _runs,
}

if __name__ == "__main__":
    name, folder, listener = sys.argv[1:]
    if os.fork():
        os._exit(0)  # it is nobody's child: it may outlive who came first
    given = set(os.environ)
    main = COMMANDS[name]()
    defaults = {variable: value for variable, value in os.environ.items() if variable not in given}
    gc.freeze()  # what is not looked at need not be copied
    serve(share(socket.socket(fileno=int(listener)), Path(folder), name), defaults)
    _end(main)
