"""A watch as it is shown: changes, and why a run waits in the queue."""

import asyncio
import io
from collections.abc import AsyncGenerator

import pytest
from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2 import WatchRunResponse
from rich.console import Console

from runs_client.views import JsonView, LineView, ProgressView, View, follow


class Recorder:
    """A view that remembers."""

    def __init__(self) -> None:
        self.shown: list[str] = []
        self.noted = asyncio.Queue[str]()

    def show(self, response: WatchRunResponse) -> None:
        self.shown.append(Run.Status.Name(response.run.status))

    def note(self, line: str) -> None:
        self.shown.append(line)
        self.noted.put_nowait(line)


def change(status: Run.Status.ValueType) -> WatchRunResponse:
    return WatchRunResponse(kind=WatchRunResponse.UPDATED, run=Run(status=status))


async def why() -> str:
    return "queued; no executor"


async def test_a_run_that_waits_says_why_again_and_again_until_it_starts() -> None:
    view = Recorder()

    async def changes() -> AsyncGenerator[WatchRunResponse, None]:
        yield change(Run.QUEUED)
        for _ in range(2):
            await view.noted.get()
        yield change(Run.RUNNING)
        yield change(Run.SUCCEEDED)

    async with asyncio.timeout(5):
        run = await follow(changes(), view, Run(status=Run.QUEUED), why, first_notice=0.01, next_notice=0.02)
    assert run.status == Run.SUCCEEDED
    notices = [line for line in view.shown if line.startswith("queued")]
    assert len(notices) >= 2
    assert view.shown == ["QUEUED", *notices, "RUNNING", "SUCCEEDED"]


async def test_a_run_that_starts_at_once_says_nothing() -> None:
    view = Recorder()

    async def changes() -> AsyncGenerator[WatchRunResponse, None]:
        for status in (Run.QUEUED, Run.RUNNING, Run.SUCCEEDED):
            yield change(status)

    await follow(changes(), view, Run(status=Run.QUEUED), why)
    assert view.shown == ["QUEUED", "RUNNING", "SUCCEEDED"]


async def test_an_error_during_the_search_for_the_reason_is_reported_too() -> None:
    async def broken() -> str:
        failed.set()
        raise ZeroDivisionError

    async def changes() -> AsyncGenerator[WatchRunResponse, None]:
        yield change(Run.QUEUED)
        await failed.wait()
        yield change(Run.SUCCEEDED)

    failed = asyncio.Event()
    with pytest.raises(ZeroDivisionError):
        await follow(changes(), Recorder(), Run(status=Run.QUEUED), broken, first_notice=0.01)


def test_each_view_has_a_place_for_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO()
    with ProgressView(Console(file=out, force_terminal=True)) as bar:
        bar.note("queued; [why]")
    assert "queued; [why]" in out.getvalue()
    views: list[View] = [LineView(), JsonView()]
    for view in views:
        view.note("queued")
    assert capsys.readouterr() == ("queued\n", "queued\n")  # a script reads JSON only
