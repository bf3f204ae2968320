"""The playbook-runs command as people and scripts use it, in processes of its own."""

import json
import os
import pty
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias

from tests.support.forking import Forked, Forks

COMMAND = Path(sys.executable).parent / "playbook-runs"
OURS = ("PLAYBOOK_RUNS_", "AI_", "OPENAI_", "XDG_DATA_HOME")
STARTS_PROCESSES = {"up", "demo"}  # which end with the process that started them

Finished: TypeAlias = subprocess.CompletedProcess[str]
NewCli: TypeAlias = "Callable[..., Cli]"


class Cli:
    """Runs the command in a folder of its own, away from this machine's own stack, keys and tokens.

    What starts a stack is started as people do; all else is forked off a process that has the command loaded.
    """

    def __init__(self, forks: Forks, folder: Path, *options: str) -> None:
        self.forks = forks
        self.folder = folder
        self.options = options  # after the sub-command's name, for each
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        self.env |= {"XDG_DATA_HOME": str(folder / "home"), "TERM": "xterm", "COLUMNS": "160"}

    def with_options(self, *options: str) -> "Cli":
        """Return another one, in the same folder, with these options."""
        return Cli(self.forks, self.folder, *options)

    def __call__(self, command: str, *arguments: object, **env: str) -> Finished:
        return self.together([command, *arguments], **env)[0]

    def together(self, *commands: Sequence[object], **env: str) -> list[Finished]:
        """What each of several commands, run at the same time, came to."""
        running = [self._start(command, env) for command in commands]
        return [one.finished() for one in running]

    def ok(self, command: str, *arguments: object) -> str:
        finished = self(command, *arguments)
        assert finished.returncode == 0, finished.stderr + finished.stdout
        return finished.stdout

    def json(self, command: str, *arguments: object) -> list[dict[str, Any]]:
        """The JSON objects that a command prints with --json, one a line."""
        return [json.loads(line) for line in self.ok(command, *arguments, "--json").splitlines()]

    def popen(self, command: str, *arguments: object, **streams: Any) -> "subprocess.Popen[str]":
        """Start the command as people do."""
        line = [COMMAND, *self._arguments((command, *arguments))]
        return subprocess.Popen(line, cwd=self.folder, env=self.env, text=True, **streams)

    def at_a_terminal(self, command: str, *arguments: object, typed: str = "") -> tuple[int, str]:
        """The exit code, and everything that was written to the terminal, at which a person has `typed` something."""
        ours, theirs = pty.openpty()
        os.write(ours, typed.encode())
        process: Forked | subprocess.Popen[str]
        if command in STARTS_PROCESSES:
            process = self.popen(command, *arguments, stdin=theirs, stdout=theirs, stderr=theirs)
        else:
            process = self._fork((command, *arguments), {}, (theirs, theirs, theirs))
        os.close(theirs)
        written = b""
        while chunk := _read(ours):
            written += chunk
        os.close(ours)
        return process.wait(), written.decode()

    def _start(self, command: Sequence[object], env: Mapping[str, str]) -> "_Running":
        output, errors = (tempfile.TemporaryFile("w+") for _ in range(2))  # noqa: SIM115  # see finished
        if command[0] in STARTS_PROCESSES:
            return _Running(self.popen(*map(str, command), stdout=output, stderr=errors), output, errors)
        with open(os.devnull) as nothing:
            streams = (nothing.fileno(), output.fileno(), errors.fileno())
            return _Running(self._fork(command, env, streams), output, errors)

    def _fork(self, command: Sequence[object], env: Mapping[str, str], streams: tuple[int, int, int]) -> Forked:
        return self.forks.start(self._arguments(command), env=self.env | env, folder=self.folder, streams=streams)

    def _arguments(self, command: Sequence[object]) -> list[str]:
        name, *arguments = map(str, command)
        return [name, *self.options, *arguments]


@dataclass
class _Running:
    process: "Forked | subprocess.Popen[str]"
    output: IO[str]
    errors: IO[str]

    def finished(self) -> Finished:
        code = self.process.wait()
        with self.output, self.errors:
            self.output.seek(0)
            self.errors.seek(0)
            return Finished((), code, self.output.read(), self.errors.read())


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux's way to say that the other side has closed it
        return b""


def refused(finished: Finished, *words: str) -> None:
    """The command said in one line what is wrong, with these words in it."""
    assert finished.returncode == 1, finished
    assert finished.stdout == ""
    (line,) = finished.stderr.splitlines()
    assert line.startswith("error: ")
    assert all(word in line for word in words), line


def previewed(cli: Cli, *options: str) -> dict[str, Any]:
    """A preview that has ended, as `create --watch --json` prints it last."""
    arguments = ("--playbook", "missing_seo_title", "--type", "PREVIEW_GENERATE", "--watch", *options)
    run: dict[str, Any] = cli.json("create", *arguments)[-1]["run"]
    assert run["status"] == "SUCCEEDED"
    return run
