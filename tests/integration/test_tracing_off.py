"""Without a collector nothing of OpenTelemetry is imported; with one that is away, one line says so."""

import contextlib
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from devstack.ports import HOST, free_ports
from servicekit.telemetry.trace_export import Exporting
from servicekit.telemetry.tracing import Kind, Tracing
from tests.support.collector import Collector
from tests.support.tokens import SECRET
from tests.support.waiting import eventually

NOBODY = f"http://{HOST}:1"


@contextlib.contextmanager
def started(module: str, log: Path, **env: str) -> Iterator[None]:
    """A process that logs what it imports; it needs neither database nor broker to start."""
    port = free_ports(1)[0]
    environment = {
        "PATH": os.environ["PATH"],
        "AUTH_JWT_SECRET": SECRET,
        "RUNS_DATABASE_URL": f"postgresql://u:p@{HOST}:1/d",
        "EXECUTOR_DATABASE_URL": f"postgresql://u:p@{HOST}:1/d",
        **dict.fromkeys(("RUNS_LISTEN", "EXECUTOR_LISTEN", "GATEWAY_LISTEN"), f"{HOST}:{port}"),
        **env,
    }
    with log.open("wb") as output:
        command = [sys.executable, "-X", "importtime", "-m", module]
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        try:
            yield
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()


async def test_without_a_collector_no_process_imports_opentelemetry(tmp_path: Path) -> None:
    logs = {name: tmp_path / name for name in ("runs_service", "executor_service", "gateway", "with a collector")}
    with contextlib.ExitStack() as processes:
        for name, log in logs.items():
            if name == "with a collector":
                processes.enter_context(started("gateway", log, OTEL_EXPORTER_OTLP_ENDPOINT=NOBODY))
            else:
                processes.enter_context(started(name, log))
        await eventually(lambda: all("serving at" in log.read_text() for log in logs.values()), 30)
    # The package itself: redis-py tries for modules in it, in vain (servicekit/broker/plain_redis.py).
    imports = {name: bool(re.search(r"\| +opentelemetry$", log.read_text(), re.M)) for name, log in logs.items()}
    assert imports == {"runs_service": False, "executor_service": False, "gateway": False, "with a collector": True}


async def test_a_collector_that_takes_nothing_is_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Collector() as collector:
        collector.status = 400
        for name, value in collector.environment.items():
            monkeypatch.setenv(name, value)
        recorder = Exporting(f"{collector.environment['OTEL_EXPORTER_OTLP_ENDPOINT']}/v1/traces", service="test")
        tracing = Tracing(recorder)
        with caplog.at_level(logging.DEBUG):
            for number in range(1, 5):
                with tracing.span("work", Kind.INTERNAL, None, attributes={}):
                    pass
                await eventually(lambda number=number: collector.requests == number)
            collector.status = 200
            with tracing.span("work", Kind.INTERNAL, None, attributes={}):
                pass
            await recorder.close()
    lines = [record.getMessage() for record in caplog.records if "spans are lost" in record.getMessage()]
    assert len(lines) == 2, lines
    assert "400" in lines[0]
    assert "over after" in lines[1]
    assert [span.name for span in collector.spans] == ["work"]
