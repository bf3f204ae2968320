"""Child processes that end with this one: the shape that all parts of the stack share."""

import os
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, Self

from devstack import launch
from devstack.errors import StackError

POLL_INTERVAL = 0.03  # seconds
READY_TIMEOUT = 60.0  # seconds; a cold disk and two busy cores are slow
STOP_TIMEOUT = 15.0  # seconds until a process that was asked to stop is killed
LOG_TAIL_LINES = 15
LOG_LINE = 300  # characters


class Child(Protocol):
    """What a process that was started can be asked, as of `subprocess.Popen`."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None:
        """Return its exit code; None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Return its exit code when it has ended. Raises TimeoutExpired after `timeout` seconds."""

    def send_signal(self, signal: int, /) -> None:
        """Send it a signal, unless it has ended."""

    def kill(self) -> None:
        """End it at once."""


Spawn = Callable[..., Child]  # starts a command, with the arguments of `spawn`


def spawn(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str],
    log: Path,
    death_signal: signal.Signals = signal.SIGKILL,
    user: str | None = None,
    keep_open: Iterable[int] = (),
) -> subprocess.Popen[bytes]:
    """Start `command`, which begins with the path of a program, with exactly `env`; its output is appended to `log`.

    The process leaves the terminal's group, so Ctrl-C reaches only us, and gets `death_signal` when the calling
    *thread* ends, also when it is killed (on Linux). It becomes `user` if given, and inherits the descriptors
    `keep_open`.
    """
    launcher = [sys.executable, "-I", "-S", launch.__file__, str(os.getpid()), str(death_signal.value), user or "-"]
    with log.open("ab") as output:
        return subprocess.Popen(
            [*launcher, *map(str, command)],
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            start_new_session=True,
            pass_fds=tuple(keep_open),
        )


def log_tail(log: Path) -> str:
    """Return the last lines of `log`, to follow a message. They are raw: escape them where they are printed."""
    lines = log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:] if log.exists() else []
    return "\n".join(lines) or "(nothing was logged)"


class Process(ABC):
    """A program that serves: start it, wait until it answers, stop it, start it again.

    Takes its `name` for messages, the file for its `log`, the descriptors it shall `keep_open`, the signals that ask it
    to stop (`stop_signal`) and that it gets when this process dies (`death_signal`), and what starts it (`spawn`). In a
    `with` block it is ready at the start and stopped at the end. Start it from a thread that lives as long as it shall
    live: see `spawn`.
    """

    user: str | None = None  # the account to run under; None for our own

    def __init__(
        self,
        name: str,
        log: Path,
        *,
        keep_open: Iterable[int] = (),
        stop_signal: signal.Signals = signal.SIGTERM,
        death_signal: signal.Signals = signal.SIGKILL,
        spawn: Spawn = spawn,
    ) -> None:
        self.name = name
        self.log = log
        self._keep_open = tuple(keep_open)
        self._stop_signal = stop_signal
        self._death_signal = death_signal
        self._spawn = spawn
        self._popen: Child | None = None

    @abstractmethod
    def command(self) -> Sequence[str | Path]:
        """Return the program, by its path, and its arguments."""

    @abstractmethod
    def environment(self) -> Mapping[str, str]:
        """Return all of its environment."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Ask it once, briefly, whether it serves."""

    def prepare(self) -> None:  # noqa: B027
        """Do what has to be done before each start."""

    @property
    def pid(self) -> int:
        """The process id. Only of a process that was started."""
        assert self._popen is not None, f"{self.name} was never started"
        return self._popen.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._popen is not None and self._popen.poll() is None

    @property
    def died(self) -> bool:
        """Whether it was started and has ended without being stopped."""
        return self._popen is not None and self._popen.poll() is not None

    def start(self) -> None:
        """Start it without waiting; nothing happens if it runs. Raises StackError if it cannot be prepared."""
        if self.alive:
            return
        self.prepare()
        self._popen = self._spawn(
            self.command(),
            env=self.environment(),
            log=self.log,
            death_signal=self._death_signal,
            user=self.user,
            keep_open=self._keep_open,
        )

    def wait_ready(self, timeout: float = READY_TIMEOUT) -> None:
        """Return once it serves. Raises StackError with the end of its log if it ends, or needs over `timeout` s."""
        wait_all_ready([self], timeout)

    def stop(self, timeout: float = STOP_TIMEOUT) -> None:
        """Ask it to stop and return when it has; kill it after `timeout` seconds. A second time does nothing."""
        self.request_stop()
        self.wait_stopped(timeout)

    def request_stop(self) -> None:
        """Ask it to stop, without waiting."""
        if self._popen is not None:
            self._popen.send_signal(self._stop_signal)

    def wait_stopped(self, timeout: float = STOP_TIMEOUT) -> None:
        """Return when it has ended; kill it after `timeout` seconds."""
        popen, self._popen = self._popen, None
        if popen is None:
            return
        try:
            popen.wait(timeout)
        except subprocess.TimeoutExpired:
            popen.kill()
            popen.wait()

    def kill(self) -> None:
        """End it at once, as `kill -9` does, and return when it is gone. `start` brings it back."""
        popen, self._popen = self._popen, None
        if popen is not None:
            popen.kill()
            popen.wait()

    def send_signal(self, name: signal.Signals) -> None:
        """Send it any signal, such as SIGSTOP and SIGCONT."""
        os.kill(self.pid, name)

    def death_notice(self) -> str:
        """Say how it ended, with the end of its log. Only of a process that died."""
        return f"{self.name} {self.end}; {self.log_end}"

    @property
    def end(self) -> str:
        """How it ended: "was killed by SIGKILL", "ended with exit code 1". Only of a process that died."""
        code = self._exit_code
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    @property
    def was_killed(self) -> bool:
        """Whether a signal ended it. Only of a process that died."""
        return self._exit_code < 0

    @property
    def _exit_code(self) -> int:
        assert self._popen is not None, f"{self.name} was never started"
        return self._popen.poll() or 0

    @property
    def last_log_line(self) -> str:
        """The last line of its log that is not blank, cut to LOG_LINE characters."""
        lines = [line for line in log_tail(self.log).splitlines() if line.strip()]
        return lines[-1].strip()[:LOG_LINE]

    @property
    def log_end(self) -> str:
        """The last lines of its log, introduced, to end a message with."""
        return f"the end of {self.log}:\n{log_tail(self.log)}"

    def __enter__(self) -> Self:
        try:
            self.start()
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def poll(condition: Callable[[], bool], timeout: float, message: Callable[[], str]) -> None:
    """Return once `condition` is true; it is called again and again. Raises StackError(message()) after `timeout` s."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise StackError(message())
        time.sleep(POLL_INTERVAL)


def wait_all_ready(processes: Iterable[Process], timeout: float = READY_TIMEOUT) -> None:
    """Return once all `processes` serve. Raises StackError as soon as one has ended, or after `timeout` seconds."""
    waiting = list(processes)

    def all_ready() -> bool:
        for process in waiting:
            if process.died:
                raise StackError(process.death_notice())
        waiting[:] = [process for process in waiting if not process.is_ready()]
        return not waiting

    poll(
        all_ready, timeout, lambda: f"{waiting[0].name} did not get ready within {timeout:.0f} s; {waiting[0].log_end}"
    )


def stop_all(processes: Iterable[Process]) -> None:
    """Stop `processes` at the same time."""
    processes = list(processes)
    for process in processes:
        process.request_stop()
    for process in processes:
        process.wait_stopped()
