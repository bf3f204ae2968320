"""The folder a stack lives in: its secrets, its data, its logs, and where it is found."""

import dataclasses
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from devstack.errors import StackError
from devstack.lock import Lock, is_running

TOKEN_LIFETIME = timedelta(hours=12)
KEPT_LOGS = 5  # earlier starts whose logs are kept


def default_data_dir() -> Path:
    """Return where a stack lives by default: in the user's data folder."""
    base = Path(os.environ.get("XDG_DATA_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".local" / "share") / "playbook-runs"


def default_demo_dir() -> Path:
    """Return where the stack of `playbook-runs demo` lives by default."""
    return default_data_dir().with_name("playbook-runs-demo")


def _random() -> str:
    return secrets.token_urlsafe(32)


@dataclass(frozen=True, repr=False)
class Secrets:
    """What the parts of a stack know each other by: random, made once for a data folder."""

    jwt_secret: str = field(default_factory=_random)
    postgres_password: str = field(default_factory=_random)
    runs_password: str = field(default_factory=_random)
    executor_password: str = field(default_factory=_random)
    valkey_password: str = field(default_factory=_random)

    def token(
        self,
        projects: Mapping[str, str],
        *,
        user: str,
        lifetime: timedelta = TOKEN_LIFETIME,
        audience: str | None = None,
        issuer: str | None = None,
    ) -> str:
        """Return a JWT for `user` with a role (OWNER, EDITOR, VIEWER) in each of `projects` (`*`: in all).

        {"*": "SERVICE"} is what the services send each other.

        `audience` and `issuer` become its `aud` and `iss`.
        """
        import jwt

        now = datetime.now(UTC)
        claims = {"sub": user, "iat": now, "exp": now + lifetime, "projects": dict(projects)}
        claims |= {name: value for name, value in (("aud", audience), ("iss", issuer)) if value}
        return jwt.encode(claims, self.jwt_secret, algorithm="HS256")


@dataclass(frozen=True)
class StackInfo:
    """Where a running stack is found. No secrets."""

    pid: int
    auth: str  # jwt or disabled
    runs_targets: list[str]  # HOST:PORT of each replica
    executor_targets: list[str]
    postgres_port: int
    valkey_port: int | None  # None: it runs without a broker
    http_url: str | None = None  # None: it runs without the gateway


class DataDir:
    """The folder of one stack, for its owner's eyes only.

    ```
    secrets.json         see Secrets
    stack.json           see StackInfo; there while the stack runs
    lock                 locked while any process of the stack runs
    postgres/  valkey/   data
    logs/                one file per process, of the newest start
    logs/earlier/1/      those of the start before, and so on up to KEPT_LOGS
    ```
    """

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().resolve()
        self.postgres = self.path / "postgres"
        self.valkey = self.path / "valkey"
        self._logs = self.path / "logs"
        self._secrets = self.path / "secrets.json"
        self._info = self.path / "stack.json"

    def log(self, name: str) -> Path:
        """Return the log file of the process `name`."""
        return self._logs / f"{name}.log"

    def earlier_logs(self, start: int) -> Path:
        """Return the folder with the logs of an earlier start: 1 is the one before the newest."""
        return self._logs / "earlier" / str(start)

    def occupy(self) -> Lock:
        """Make the folder if need be, lock it, and put the logs of the last start aside.

        Raises StackError if a stack runs in it, or if it cannot be written.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = Lock(self.path / "lock")
            self._logs.mkdir(exist_ok=True)
            self._put_logs_aside()
            # No PostgreSQL of an earlier stack is left; should something else have its pid now, it would not start.
            (self.postgres / "postmaster.pid").unlink(missing_ok=True)
        except OSError as error:
            raise StackError(f"{self.path} cannot be used: {error.strerror}; choose another with --data-dir") from error
        return lock

    def has_stack(self) -> bool:
        """Say whether a stack was ever started in it."""
        return self._secrets.exists()

    def delete(self) -> None:
        """Delete the folder with everything in it. Raises StackError if a stack runs in it, or it cannot be written."""
        lock = self.occupy()
        try:
            shutil.rmtree(self.path)
        except OSError as error:
            raise StackError(f"{self.path} cannot be deleted: {error.strerror}") from error
        finally:
            lock.release()

    def _put_logs_aside(self) -> None:
        logs = list(self._logs.glob("*.log"))
        if not logs:
            return  # a start that got nowhere
        shutil.rmtree(self.earlier_logs(KEPT_LOGS), ignore_errors=True)
        for start in range(KEPT_LOGS - 1, 0, -1):
            if self.earlier_logs(start).exists():
                self.earlier_logs(start).rename(self.earlier_logs(start + 1))
        self.earlier_logs(1).mkdir(parents=True)
        for log in logs:
            log.rename(self.earlier_logs(1) / log.name)

    def secrets(self) -> Secrets:
        """Return the folder's secrets. Raises StackError if no stack was ever started in it."""
        try:
            return Secrets(**json.loads(self._secrets.read_text()))
        except FileNotFoundError:
            raise StackError(f"there is no stack in {self.path}; start one there with `playbook-runs up`") from None
        except (OSError, ValueError, TypeError) as error:
            raise StackError(f"{self._secrets} cannot be read: {error}") from error

    def make_secrets(self) -> Secrets:
        """Return the folder's secrets, made now if there are none. Only for the stack that occupies the folder."""
        if not self._secrets.exists():
            _write(self._secrets, dataclasses.asdict(Secrets()))
        return self.secrets()

    def publish(self, info: StackInfo) -> None:
        """Let others find the stack."""
        _write(self._info, dataclasses.asdict(info))

    def withdraw(self) -> None:
        """Undo `publish`."""
        self._info.unlink(missing_ok=True)

    def info(self) -> StackInfo | None:
        """Return where the stack is found, or None if none runs here."""
        try:
            info = StackInfo(**json.loads(self._info.read_text()))
        except (OSError, ValueError, TypeError):
            return None
        return info if is_running(info.pid) else None  # a killed stack could not withdraw


def _write(file: Path, content: object) -> None:
    """Write `content` as JSON, all or nothing, readable by the owner only."""
    draft = file.with_suffix(".draft")
    draft.touch(mode=0o600)
    draft.write_text(json.dumps(content, indent=2) + "\n")
    draft.replace(file)
