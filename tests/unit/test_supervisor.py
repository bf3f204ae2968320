"""The supervisor of a stack, over real processes that die, and a clock of the test's own."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from devstack.errors import StackError
from devstack.process import Process, poll
from devstack.supervisor import DEATHS, PERIOD, Supervisor

STAYS = "import os, signal; print('serving as', os.getpid(), flush=True); signal.pause()"
FAILS = "import sys; print('starting'); sys.exit('error: the port is taken\\n')"


class Program(Process):
    """A Python program that says when it serves."""

    def __init__(self, name: str, program: str, log: Path) -> None:
        super().__init__(name, log)
        self.program = program

    def command(self) -> list[str]:
        return [sys.executable, "-c", self.program]

    def environment(self) -> dict[str, str]:
        return dict(os.environ)

    def is_ready(self) -> bool:
        return f"serving as {self.pid}\n" in self.log.read_text()


class Watched:
    """Two programs under supervision."""

    def __init__(self, folder: Path) -> None:
        self.now = 0.0
        self.reports: list[str] = []
        self.one = Program("one", STAYS, folder / "one.log")
        self.two = Program("two", STAYS, folder / "two.log")
        self.supervisor = Supervisor([self.one, self.two], self.reports.append, now=lambda: self.now)

    def dies(self, program: Program, number: signal.Signals | None = signal.SIGKILL) -> None:
        if number:
            program.wait_ready()
            program.send_signal(number)
        poll(lambda: program.died, 10, lambda: f"{program.name} did not die")

    def restarted(self, program: Program) -> None:
        """Check, with the time that a restart waits for passed."""
        self.supervisor.check()
        self.now += 2
        self.supervisor.check()
        assert program.alive or program.died


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    watched = Watched(tmp_path)
    with watched.one, watched.two:
        yield watched


def test_a_killed_process_is_restarted_and_the_other_keeps_running(watched: Watched) -> None:
    other, dead = watched.two.pid, watched.one.pid
    watched.dies(watched.one)
    watched.supervisor.check()
    assert watched.one.alive
    assert watched.one.pid != dead
    assert watched.two.pid == other
    watched.supervisor.check()
    assert watched.reports == ["one was killed by SIGKILL; it is started again"]


def test_one_that_ends_by_itself_says_why(watched: Watched) -> None:
    watched.one.stop()
    watched.one.program = FAILS
    watched.one.start()
    watched.dies(watched.one, None)
    watched.supervisor.check()
    assert watched.reports == ["one ended with exit code 1 (error: the port is taken); it is started again"]


def test_one_that_was_stopped_on_purpose_stays_stopped(watched: Watched) -> None:
    watched.one.stop()
    watched.supervisor.check()
    assert not watched.one.alive
    assert watched.reports == []


def test_a_process_that_dies_five_times_within_a_minute_ends_the_stack_with_its_log(watched: Watched) -> None:
    for _ in range(DEATHS - 1):
        watched.dies(watched.one)
        watched.restarted(watched.one)
    watched.dies(watched.one)
    with pytest.raises(StackError, match=r"(?s)one died 5 times within 60 s.*killed by SIGKILL.*one\.log:.*serving"):
        watched.supervisor.check()
    assert len(watched.reports) == DEATHS - 1


def test_deaths_of_long_ago_and_of_others_do_not_count(watched: Watched) -> None:
    for _ in range(2 * DEATHS):
        watched.dies(watched.one)
        watched.restarted(watched.one)
        watched.now += PERIOD / (DEATHS - 1)
    watched.now += PERIOD
    for program in (watched.one, watched.two):
        for _ in range(2):
            watched.dies(program)
            watched.restarted(program)
    assert watched.one.alive
    assert watched.two.alive


def test_later_starts_wait_a_little_and_the_first_does_not(watched: Watched) -> None:
    watched.dies(watched.one)
    watched.supervisor.check()
    assert watched.one.alive
    watched.dies(watched.one)
    watched.supervisor.check()
    assert not watched.one.alive
    watched.now += 0.4
    watched.supervisor.check()
    assert not watched.one.alive
    watched.now += 0.2
    watched.supervisor.check()
    assert watched.one.alive
