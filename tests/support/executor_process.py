"""An executor-service that asks an AI server, as a process of its own: what it runs, takes of memory and logs."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

import grpc
from playbooks.executor.v1 import executor_service_pb2 as pb
from playbooks.executor.v1.executor_service_pb2_grpc import ExecutorServiceStub
from playbooks.executor.v1.job_pb2 import RunJob

from devstack.ports import HOST, free_ports
from tests.support.executor import job
from tests.support.openai_server import OpenAIServer

DEADLINE = 60  # seconds


class ExecutorProcess:
    """An executor-service on a migrated database; use it with `with`."""

    def __init__(self, database_url: str, openai: OpenAIServer, log: Path) -> None:
        self._target = f"{HOST}:{free_ports(1)[0]}"
        self._log = log
        self._environment = {
            "PATH": "/usr/bin:/bin",
            "EXECUTOR_DATABASE_URL": database_url,
            "EXECUTOR_LISTEN": self._target,
            "EXECUTOR_GRACE_SECONDS": "0.1",
            "AUTH_MODE": "disabled",
            "OPENAI_API_KEY": openai.api_key,
            "OPENAI_BASE_URL": openai.base_url,
        }

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "executor_service"]
        with self._log.open("wb") as output:  # not forked off: how it grows depends on what it has loaded itself
            self._process = subprocess.Popen(command, env=self._environment, stderr=output)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(DEADLINE)

    async def run(self) -> Any:
        """Execute a preview of 20 products; return how it ended."""
        async with grpc.aio.insecure_channel(self._target) as channel:
            call = ExecutorServiceStub(channel).ExecuteRun(
                pb.ExecuteRunRequest(job=RunJob.FromString(job(sample=20).body)), wait_for_ready=True, timeout=DEADLINE
            )
            return [response async for response in call][-1].event

    def memory(self, kind: str) -> int:
        """Return bytes: VmRSS now, VmHWM at most since `forget_most`."""
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        (line,) = [line for line in lines if line.startswith(kind)]
        return int(line.split()[1]) * 1024

    def forget_most(self) -> None:
        Path(f"/proc/{self._process.pid}/clear_refs").write_text("5")

    def log(self) -> str:
        return self._log.read_text()
