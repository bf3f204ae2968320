"""The whole stack: its ports, secrets and logs, and which process gets which settings."""

import socket
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from devstack.datadir import DataDir
from devstack.errors import StackError
from devstack.ports import HOST
from devstack.services import Service, migrate
from devstack.stack import Stack, StackOptions


class TestStack:
    def test_a_taken_port_is_named_with_the_option_that_chooses_another(self, tmp_path: Path) -> None:
        for kind in ("runs", "executor"):
            with socket.create_server((HOST, 0)) as taken:
                port = taken.getsockname()[1]
                options = {f"{kind}_port": port}
                with pytest.raises(StackError, match=rf"port {port} .* is taken .* --{kind}-port"):
                    Stack(StackOptions(data_dir=tmp_path, **options)).start()
        DataDir(tmp_path).occupy().release()  # the failed starts let go of the folder

    def test_secrets_are_random_lasting_and_the_owners(self, tmp_path: Path) -> None:
        made = DataDir(tmp_path / "one" / "new")
        with pytest.raises(StackError, match="no stack"):
            made.secrets()
        made.occupy().release()
        secrets = made.make_secrets()
        assert made.make_secrets() == made.secrets() == secrets
        assert (made.path / "secrets.json").stat().st_mode & 0o777 == 0o600
        assert made.path.stat().st_mode & 0o777 == 0o700
        other = DataDir(tmp_path / "other")
        other.occupy().release()
        assert other.make_secrets() != secrets
        assert secrets.jwt_secret not in repr(secrets)

    def test_logs_of_the_last_five_starts_are_kept(self, tmp_path: Path) -> None:
        data = DataDir(tmp_path)
        for start in range(1, 9):
            data.occupy().release()
            assert not data.log("postgres").exists()
            data.log("postgres").write_text(f"start {start}")
            if start % 2:
                data.log("valkey").write_text(f"start {start}")
        data.occupy().release()
        data.occupy().release()  # a start that got nowhere puts nothing aside
        kept = {
            int(folder.name): {log.name: log.read_text() for log in folder.iterdir()}
            for folder in data.earlier_logs(1).parent.iterdir()
        }
        both = {number: {"postgres.log": f"start {9 - number}"} for number in range(1, 6)}
        for number in (2, 4):
            both[number]["valkey.log"] = f"start {9 - number}"
        assert kept == both

    @pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
    def test_only_the_executor_gets_the_ai_key(
        self, stack_folder: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-inherited-0123456789")
        monkeypatch.setenv("AI_MODEL", "of-the-environment")
        given = {"OPENAI_BASE_URL": "http://127.0.0.1:9/given"}
        with Stack(StackOptions(data_dir=stack_folder(), durable=False, env=given, runs_replicas=2)) as stack:
            found = {
                process.pid: Path(f"/proc/{process.pid}/environ").read_bytes()
                for part in stack.processes
                for process in [psutil.Process(part.pid), *psutil.Process(part.pid).children(recursive=True)]
            }
            executors = {executor.pid for executor in stack.executors}
        for pid, environment in found.items():
            for setting in (b"sk-inherited-0123456789", b"of-the-environment", b"/given", b"OPENAI_", b"AI_MODEL"):
                assert (setting in environment) == (pid in executors)

    def test_a_migration_gets_no_ai_key(self, tmp_path: Path) -> None:
        class PrintsEnvironment(Service):
            def command(self) -> list[str | Path]:
                return [sys.executable, "-c", "import os; print(sorted(os.environ))"]

        data = DataDir(tmp_path)
        lock = data.occupy()
        env = {"OPENAI_API_KEY": "sk-0", "AI_MODEL": "m", "EXECUTOR_DATABASE_URL": "postgresql://"}
        executor = PrintsEnvironment("executor", port=1, env=env, data=data, keep_open=[])
        migrate([executor])
        lock.release()
        assert "EXECUTOR_DATABASE_URL" in executor.log.read_text()
        assert "AI_" not in executor.log.read_text()
        assert executor.environment()["OPENAI_API_KEY"] == "sk-0"
