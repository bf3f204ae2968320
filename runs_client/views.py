"""A watch as it happens: a progress bar at a terminal, a line a change in a pipe, JSON for scripts."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractContextManager, aclosing
from types import TracebackType
from typing import Protocol, Self

from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2 import WatchRunResponse
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from runs_client.printing import say, say_json, shown, warn
from runs_client.render import COLOURS, NOUNS, VERBS, status_name
from servicekit.telemetry.printable import printable

FIRST_NOTICE, NEXT_NOTICE = 3.0, 30.0  # seconds in the queue until a line says why, and between such lines


class View(Protocol):
    """Shows what a watcher gets, message by message."""

    def show(self, response: WatchRunResponse) -> None:
        """Show one message."""
        ...

    def note(self, line: str) -> None:
        """Show a line about the run that is not a change of it."""
        ...


class JsonView(AbstractContextManager["JsonView"]):
    """Every message as it came, heartbeats too, one JSON object a line."""

    def show(self, response: WatchRunResponse) -> None:
        """Print one message."""
        say_json(response)

    def note(self, line: str) -> None:
        """Print the line on standard error: a script reads messages only."""
        warn(line)

    def __exit__(self, *_: object) -> None:
        """There is nothing to put away."""


class LineView(AbstractContextManager["LineView"]):
    """One line a change."""

    def show(self, response: WatchRunResponse) -> None:
        """Print a change; a heartbeat is none."""
        if response.kind == WatchRunResponse.HEARTBEAT:
            return
        say(change_line(response.run))

    def note(self, line: str) -> None:
        """Print the line."""
        say(line)

    def __exit__(self, *_: object) -> None:
        """There is nothing to put away."""


class ProgressView:
    """A progress bar that stays on the screen, with the run's last state, when the watch is over."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(complete_style="cyan", finished_style="green"),
            TextColumn("{task.completed:.0f}/{task.fields[of]}"),
            TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(),
            console=console,
        )
        self._task: TaskID | None = None

    def show(self, response: WatchRunResponse) -> None:
        """Move the bar."""
        run = response.run
        status = f"[{COLOURS.get(run.status, 'cyan')}]{status_name(run)}[/]"
        if self._task is None:
            self._task = self._progress.add_task(printable(_label(run)), total=None, of="?", status=status)
        self._progress.update(
            self._task,
            completed=run.progress.completed,
            total=run.progress.total or (1 if run.HasField("finished_at") else None),
            of=str(run.progress.total or "?"),
            status=status,
        )

    def note(self, line: str) -> None:
        """Print the line above the bar."""
        self._progress.console.print(shown(line, "yellow"))

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()


def view_for(console: Console, *, as_json: bool = False) -> JsonView | LineView | ProgressView:
    """Return the view that suits standard output; enter it before showing anything."""
    if as_json:
        return JsonView()
    return ProgressView(console) if console.is_terminal else LineView()


async def follow(
    responses: AsyncGenerator[WatchRunResponse, None],
    view: View,
    run: Run,
    explain_queue: Callable[[], Awaitable[str]] | None = None,
    *,
    first_notice: float = FIRST_NOTICE,
    next_notice: float = NEXT_NOTICE,
) -> Run:
    """Show a watch of `run` to its end; return the run as it ended.

    With `explain_queue`, which returns a line that says why the run waits, that line is shown while it is QUEUED.
    """
    latest = run

    async def notices(explain: Callable[[], Awaitable[str]]) -> None:
        pause = first_notice
        while True:
            await asyncio.sleep(pause)
            if latest.status != Run.QUEUED:
                return
            view.note(await explain())
            pause = next_notice

    notifier = asyncio.create_task(notices(explain_queue)) if explain_queue else None
    try:
        async with aclosing(responses):
            async for response in responses:
                view.show(response)
                latest = response.run
    finally:
        if notifier:
            notifier.cancel()
            await asyncio.wait([notifier])
            if not notifier.cancelled():
                notifier.result()  # raises what it ended with
    return latest


def outcome_line(run: Run, outcome: str) -> Text:
    """Return a run's last line: its status in colour, and what came of it."""
    return Text.assemble(shown(status_name(run), COLOURS.get(run.status, "")), shown(f"  {outcome}"))


def change_line(run: Run) -> str:
    """Return a change in one line, without the run's id."""
    parts = [f"#{run.sequence}", f"{run.updated_at.ToJsonString()}", _label(run), status_name(run)]
    if run.progress.total:
        parts.append(f"{run.progress.completed}/{run.progress.total}")
    if run.attempt > 1:
        parts.append(f"attempt {run.attempt}")
    return "  ".join(parts)


def _label(run: Run) -> str:
    return f"{VERBS.get(run.run_type, 'run')} {NOUNS.get(run.playbook_id, run.playbook_id)}s"
