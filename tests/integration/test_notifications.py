"""Listener and Notifier over a real PostgreSQL that is not always there."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from servicekit.background.tasks import running
from servicekit.postgres.database import Database
from servicekit.postgres.notifications import Listener, Notifier
from tests.support.database import frozen, kill_backends
from tests.support.prepared import Prepared
from tests.support.waiting import eventually


class Recorder:
    """A listener and the notifications that reached it."""

    def __init__(self, url: str, channel: str = "changes", **options: float) -> None:
        self.payloads: list[str] = []
        self.gaps = 0
        self.listener = Listener(url, channel, on_notification=self.payloads.append, on_gap=self._on_gap, **options)

    def _on_gap(self) -> None:
        self.gaps += 1


@pytest.fixture
async def recorder(runs_database_url: str) -> AsyncIterator[Recorder]:
    recorder = Recorder(runs_database_url)
    async with running(recorder.listener):
        await eventually(lambda: recorder.gaps == 1)
        yield recorder


async def test_a_notification_arrives_on_its_channel_only(
    recorder: Recorder, runs_database: Database, runs_database_url: str
) -> None:
    stranger = Recorder(runs_database_url, "other")
    notifier = Notifier(runs_database, "changes")
    async with running(stranger.listener, notifier):
        await eventually(lambda: stranger.gaps)
        notifier.notify(["a", "b", "a"])
        await eventually(lambda: " ".join(recorder.payloads).split() == ["a", "b"])
        many = [f"{n:036}" for n in range(1000)]
        notifier.notify(many)
        await eventually(lambda: " ".join(recorder.payloads).split() == ["a", "b", *many])
    assert stranger.payloads == []
    assert recorder.gaps == 1


async def test_a_listener_whose_connection_is_killed_listens_again_and_reports_a_gap(
    recorder: Recorder, runs_database: Database, runs_database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "servicekit")
    for time in range(1, 4):
        assert kill_backends(runs_database_url, "listen-%") == 1
        await eventually(lambda expected=time: recorder.gaps == expected + 1)
    notifier = Notifier(runs_database, "changes")
    async with running(notifier):
        notifier.notify(["again"])
        await eventually(lambda: recorder.payloads == ["again"])
    lost = [record for record in caplog.records if record.message.startswith("Listener failed")]
    assert len(lost) == 3
    assert all(record.exc_info is None for record in lost)  # a line each, no trace


async def test_a_listener_leaves_a_server_that_stands_still(
    tmp_path: Path, prepared: Prepared, caplog: pytest.LogCaptureFixture
) -> None:
    """It may never go on: behind the same address another one may have taken its place."""
    with prepared.postgres(tmp_path) as server:
        recorder = Recorder(server.url(), answer_timeout=1.0, idle_check=0.05)
        async with running(recorder.listener):
            await eventually(lambda: recorder.gaps)
            with frozen(server):
                await eventually(lambda: any("Listener failed" in record.message for record in caplog.records))
                before = recorder.gaps
            await eventually(lambda: recorder.gaps > before)


async def test_a_hint_that_comes_between_two_waits_is_not_lost(runs_database: Database, runs_database_url: str) -> None:
    recorder = Recorder(runs_database_url, idle_check=0.005)
    notifier = Notifier(runs_database, "changes")
    words = [str(n) for n in range(200)]
    async with running(recorder.listener, notifier):
        await eventually(lambda: recorder.gaps)
        for word in words:
            notifier.notify([word])
            await asyncio.sleep(0.001)
        await eventually(lambda: " ".join(recorder.payloads).split() == words)


async def test_a_notifier_goes_on_after_its_database_failed(
    recorder: Recorder, runs_database: Database, runs_database_url: str
) -> None:
    notifier = Notifier(runs_database, "changes")
    async with running(notifier):
        notifier.notify(["first"])
        await eventually(lambda: recorder.payloads == ["first"])
        kill_backends(runs_database_url, "test")
        notifier.notify(["lost"])

        def notified_again() -> bool:
            notifier.notify(["later"])
            return "later" in " ".join(recorder.payloads)

        await eventually(notified_again)
