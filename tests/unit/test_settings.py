import socket
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from pydantic import ValidationError

from devstack.ports import HOST
from executor_service.settings import ExecutorSettings
from runs_service.settings import RunsSettings
from servicekit import prefork
from servicekit.auth.tokens import Demands
from servicekit.config import settings
from servicekit.rpc.server import Server
from servicekit.telemetry.logs import LevelSwitch
from servicekit.telemetry.metrics import Metrics
from tests.support.certificates import Authority
from tests.support.tokens import public_pem

SECRET = "a secret of the services: 32 or more"
GOOD = {"RUNS_DATABASE_URL": "postgresql://u:hidden-password@h/d", "AUTH_JWT_SECRET": SECRET}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BROKER_URL", "AUTH_MODE", "RUNS_LISTEN", "METRICS_LISTEN", "TLS_CERT_FILE", "LOG_LEVEL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)


def load(monkeypatch: pytest.MonkeyPatch, **environment: str) -> RunsSettings:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return settings.load(RunsSettings)


def test_the_defaults_are_those_of_the_design(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load(monkeypatch)
    assert (loaded.listen, loaded.executor_target) == ("127.0.0.1:50051", "127.0.0.1:50052")
    assert (loaded.broker_url, loaded.enable_queue_processors, loaded.runs_inline_fallback) == (None, True, False)
    assert (loaded.auth_mode, loaded.metrics_listen) == ("jwt", None)


def test_empty_variables_count_as_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load(monkeypatch, BROKER_URL="", METRICS_LISTEN="", TLS_CERT_FILE="")
    assert (loaded.broker_url, loaded.metrics_listen, loaded.tls_cert_file) == (None, None, None)


def test_settings_are_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load(monkeypatch)
    with pytest.raises(ValidationError):
        loaded.listen = "127.0.0.1:1"


def test_switched_off_queue_processors_mean_inline(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = "redis://127.0.0.1:6379/0"
    assert load(monkeypatch, BROKER_URL=broker).queue_url == broker
    assert load(monkeypatch, ENABLE_QUEUE_PROCESSORS="false").queue_url is None


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("RUNS_DATABASE_URL", "mysql://h/d", "postgresql://"),
        ("RUNS_DATABASE_URL", "postgresql://u:hidden-password@h:54x/d", "number for its port"),
        ("RUNS_DATABASE_URL", "postgresql://u:hidden-password@h:99999/d", "number for its port"),
        ("RUNS_DATABASE_URL", "postgresql://u:hidden-password/2@h:5432/d?port=x", "percent-encoded"),
        ("RUNS_DATABASE_URL", "postgresql://u:hidden-password@h", "names no database"),
        ("RUNS_DATABASE_URL", "postgresql://u:hidden-password@h/", "names no database"),
        ("RUNS_DATABASE_URL", "postgresql://", "names no database"),
        ("RUNS_DATABASE_URL", "postgresql:///?host=/run/x", "names no database"),
        ("RUNS_DATABASE_URL", "postgresql://u:12@hidden-password@h:5432/d", "percent-encoded"),
        ("RUNS_DATABASE_URL", "postgresql://u:12@s/hidden-password@h:5432/d", "percent-encoded"),
        ("RUNS_DATABASE_URL", "postgresql://u:12@s/d?hidden-password@h:5432/d", "percent-encoded"),
        ("RUNS_DATABASE_URL", "postgresql://u:12@hidden password/d", "percent-encoded"),
        ("RUNS_DATABASE_URL", "postgresql://u:hidden-password@h/d?sslmod=require", "is sslmode meant"),
        ("RUNS_DATABASE_URL", "postgresql://u:p@h/d?hidden-password=1", "does not know"),
        ("RUNS_DATABASE_URL", "postgresql://u:hidden-password@h/d?sslmode=hidden-password", "verify-full"),
        ("RUNS_DATABASE_URL", "postgresql://u:p@h/d?connect_timeout=hidden-password", "whole number"),
        ("RUNS_DATABASE_URL", "postgresql://u:p@h/d?sslrootcert=/nowhere/hidden-password", "sslrootcert"),
        ("RUNS_LISTEN", "50051", "HOST:PORT"),
        ("RUNS_LISTEN", "127.0.0.1:70000", "HOST:PORT"),
        ("RUNS_LISTEN", ":50051", "HOST:PORT"),
        ("RUNS_LISTEN", "127.0.0.1:²", ""),
        ("EXECUTOR_TARGET", "executor", "HOST:PORT"),
        ("METRICS_LISTEN", "9100", "HOST:PORT"),
        ("BROKER_URL", "127.0.0.1:6379", "redis://"),
        ("BROKER_URL", "http://127.0.0.1", "redis://"),
        ("BROKER_URL", "redis://:hidden-password@127.0.0.1:6379x/0", "number for its port"),
        ("BROKER_URL", "redis://:hidden-password/2@127.0.0.1:6379/0", "percent-encoded"),
        ("BROKER_URL", "redis://[::1:6379/0", "redis://"),
        ("BROKER_URL", "amqp://u:hidden-password@h:99999//", "amqp://"),
        ("BROKER_URL", "amqp://u:p@h//;amqp://u:hidden-password@h:port//", "amqp://"),
        ("BROKER_URL", "redis://:hidden-password@127.0.0.1:6379/jobs", "numbers"),
        ("BROKER_URL", "sentinel://:hidden-password@127.0.0.1:26379/jobs", "numbers"),
        ("BROKER_URL", "sentinel://:hidden-password@127.0.0.1:26379/0", "master_name"),
        ("BROKER_URL", "memory://", "two"),
        ("BROKER_URL", "filesystem://", "share"),
        ("BROKER_URL", "redis://h/0?hidden-password=1", "not known"),
        ("BROKER_URL", "redis://:12#hidden-password@h:6379/0", "percent-encoded"),
        ("BROKER_URL", "redis://u:12/hidden-password@h:6379/0", "percent-encoded"),
        ("BROKER_URL", "redis://u:12?hidden-password@h:6379/0", "percent-encoded"),
        ("BROKER_URL", "rediss://h/0?ssl_ca_certs=/nowhere/ca.pem", "ssl_ca_certs"),
        ("BROKER_URL", "rediss://h/0?ssl_cert_reqs=perhaps", "required, optional, none"),
        ("BROKER_URL", "kafka://u:hidden-password@h", "not installed"),
        ("ENABLE_QUEUE_PROCESSORS", "perhaps", "true or false"),
        ("RUNS_INLINE_FALLBACK", "2", "true or false"),
        ("RUNS_RECONCILE_SECONDS", "0", "greater than 0"),
        ("RUNS_RECONCILE_SECONDS", "often", "number"),
        ("RUNS_DATABASE_POOL_SIZE", "1", "2 or more"),
        ("RUNS_RETENTION_DAYS", "-1", "0 or more"),
        ("RUNS_RETENTION_DAYS_FAILED", "1.5", "whole number"),
        ("AUTH_MODE", "none", "'jwt' or 'disabled'"),
        ("AUTH_JWT_SECRET", "short", "32"),
        ("AUTH_JWT_SECRET", f"{SECRET},hidden-password", "secret 2 of 2 is too short: 32 characters or more"),
        ("AUTH_JWT_SECRET", f"{SECRET},", "secret 2 of 2 is empty"),
        ("AUTH_JWT_MAX_LIFETIME_SECONDS", "599", "600 or more"),
        ("AUTH_JWT_MAX_LIFETIME_SECONDS", "inf", "whole number"),
        ("LOG_FORMAT", "xml", "'json' or 'console'"),
        ("LOG_LEVEL", "LOUD", "'DEBUG'"),
        ("TLS_CERT_FILE", "/nowhere/cert.pem", "TLS_KEY_FILE"),
        ("TLS_CLIENT_CA_FILE", "/nowhere/ca.pem", "TLS_CERT_FILE"),
        ("AUTH_JWT_PUBLIC_KEY_FILE", "/nowhere/key.pem", "/nowhere/key.pem"),
    ],
)
def test_a_bad_value_stops_the_start_with_its_name_and_what_is_allowed(
    name: str, value: str, allowed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        load(monkeypatch, **{name: value})
    printed = capsys.readouterr().err
    assert stop.value.code == 2
    assert name in printed
    assert allowed in printed
    assert "hidden-password" not in printed
    assert SECRET not in printed


@pytest.mark.parametrize(
    "url",
    [
        *("redis://", "redis://h", "redis://:p@h:6379/", "rediss://h/2", "redis+socket:///run/valkey.sock"),
        *("amqp://", "amqp://u:p@h:5672//", "amqp://h1//;amqp://h2//", "amqps://h//", "amqp://h//?heartbeat=9"),
        *("sentinel://h:26379/0?master_name=m", "sentinel://a:1;sentinel://b:2/0?master_name=m&ssl_cert_reqs=none"),
    ],
)
def test_every_url_that_kombu_reads_is_good(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(monkeypatch, BROKER_URL=url).queue_url == url


@pytest.mark.parametrize(
    "url",
    [
        *("postgresql://u:p@h:5432/d", "postgres://h/d", "postgresql+psycopg://h/d", "postgresql://u:p@[::1]:5432/d"),
        *("postgresql:///name?host=/run/x", "postgresql://%2Frun%2Fx/name", "postgresql:///?host=/run/x&dbname=name"),
        *("postgresql:///d?host=a,b&port=1,2", "postgresql:///?service=shop"),
    ],
)
def test_every_url_that_names_a_database_is_good(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(monkeypatch, RUNS_DATABASE_URL=url).database_url == url.replace("postgres://", "postgresql://")


def test_secrets_in_rotation_and_what_tokens_must_say(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(monkeypatch).jwt_secrets == (SECRET,)
    assert load(monkeypatch).token_demands == Demands(None, None, timedelta(days=30))
    loaded = load(
        monkeypatch,
        AUTH_JWT_SECRET=f"{'x' * 32}, {SECRET}",
        AUTH_JWT_AUDIENCE="playbooks",
        AUTH_JWT_ISSUER="https://login.example",
        AUTH_JWT_MAX_LIFETIME_SECONDS="3600",
    )
    assert loaded.jwt_secrets == ("x" * 32, SECRET)
    assert loaded.token_demands == Demands("playbooks", "https://login.example", timedelta(hours=1))


def test_a_missing_database_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("RUNS_DATABASE_URL")
    with pytest.raises(SystemExit):
        load(monkeypatch)
    assert capsys.readouterr().err.startswith("RUNS_DATABASE_URL:")


def test_jwt_needs_a_secret(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("AUTH_JWT_SECRET")
    with pytest.raises(SystemExit):
        load(monkeypatch)
    assert "AUTH_JWT_SECRET" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["0.0.0.0:50051", "192.168.1.7:50051", "[::]:50051", "example.com:50051"])
def test_disabled_authentication_is_refused_at_an_open_address(
    address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        load(monkeypatch, AUTH_MODE="disabled", RUNS_LISTEN=address)
    assert "loopback" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["127.0.0.1:0", "127.1.2.3:50051", "[::1]:50051", "localhost:50051"])
def test_disabled_authentication_is_accepted_at_loopback(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(monkeypatch, AUTH_MODE="disabled", RUNS_LISTEN=address).listen == address


def test_no_secret_is_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert SECRET not in repr(load(monkeypatch))


# Files


@pytest.fixture
def tls(tmp_path: Path) -> dict[str, str]:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("server")
    authority.issue("other")
    (tmp_path / "garbage.pem").write_text("x")
    return {"TLS_CERT_FILE": str(certificate), "TLS_KEY_FILE": str(key), "TLS_CLIENT_CA_FILE": str(authority.file)}


def test_tls_files_that_are_there_are_accepted(monkeypatch: pytest.MonkeyPatch, tls: dict[str, str]) -> None:
    assert load(monkeypatch, **tls).tls_client_ca_file == Path(tls["TLS_CLIENT_CA_FILE"])


@pytest.mark.parametrize(
    ("name", "file", "message"),
    [
        ("TLS_CERT_FILE", "garbage.pem", "BEGIN CERTIFICATE"),
        ("TLS_CERT_FILE", "server.key", "BEGIN CERTIFICATE"),
        ("TLS_CERT_FILE", ".", "directory"),
        ("TLS_CERT_FILE", "missing.pem", "No such file"),
        ("TLS_KEY_FILE", "garbage.pem", "BEGIN PRIVATE KEY"),
        ("TLS_KEY_FILE", "server.pem", "BEGIN PRIVATE KEY"),
        ("TLS_KEY_FILE", "other.key", "the key of another certificate"),
        ("TLS_KEY_FILE", "encrypted.key", "without a passphrase"),
        ("TLS_KEY_FILE", ".", "directory"),
        ("TLS_CLIENT_CA_FILE", "garbage.pem", "BEGIN CERTIFICATE"),
        ("TLS_CLIENT_CA_FILE", ".", "directory"),
        ("TLS_CA_FILE", "garbage.pem", "BEGIN CERTIFICATE"),
        ("AUTH_JWT_PUBLIC_KEY_FILE", "garbage.pem", "BEGIN PUBLIC KEY"),
        ("AUTH_JWT_PUBLIC_KEY_FILE", "keys.json", "JWKS"),
        ("AUTH_JWT_PUBLIC_KEY_FILE", "server.pem", "has a certificate"),
        ("AUTH_JWT_PUBLIC_KEY_FILE", ".", "directory"),
        ("AUTH_JWT_PUBLIC_KEY_FILE", "server.key", "has a private key"),
        ("AUTH_JWT_PUBLIC_KEY_FILE", "weak.pem", "RSA of 1024 bits; 2,048 or more are needed"),
    ],
)
def test_a_file_that_is_something_else_is_named(
    name: str,
    file: str,
    message: str,
    tls: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "keys.json").write_text('{"keys": 5}')
    (tmp_path / "weak.pem").write_bytes(public_pem(rsa.generate_private_key(public_exponent=65537, key_size=1024)))
    encrypted = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"passphrase")
    )
    (tmp_path / "encrypted.key").write_bytes(encrypted)
    with pytest.raises(SystemExit) as stop:
        load(monkeypatch, **(tls | {name: str(tmp_path / file)}))
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2
    assert line.startswith(f"{name}: {tmp_path / file}")
    assert message in line


# Listening


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("nowhere.invalid:50051", "the host nowhere.invalid is not known"),
        ("192.0.2.1:50051", "192.0.2.1 is no address of this machine"),
        ("taken", "is the port taken?"),
    ],
)
async def test_an_address_that_cannot_be_bound_is_explained(
    count: int, address: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        where = address.replace("taken", f"{HOST}:{other.getsockname()[1]}")
        loaded = load(monkeypatch, RUNS_LISTEN=where)

        def serve(_number: int) -> None:
            Server(loaded, [], {}, Metrics())

        with pytest.raises(SystemExit) as stop:
            prefork.run(count, loaded.listen, serve, LevelSwitch("INFO"), variable=loaded.listen_variable)
    assert str(stop.value).startswith(f"cannot listen on {where} (RUNS_LISTEN): {reason}")


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("AI_BATCH_SIZE", "many", "AI_BATCH_SIZE: must be a whole number"),
        ("AI_BATCH_SIZE", "1.5", "AI_BATCH_SIZE: must be a whole number"),
        ("AI_BATCH_SIZE", "0", "AI_BATCH_SIZE: must be 1 or more"),
        ("AI_BATCH_SIZE", "101", "AI_BATCH_SIZE: must be 100 or less"),
        ("AI_TIMEOUT_SECONDS", "0", "AI_TIMEOUT_SECONDS: must be greater than 0"),
        ("AI_TIMEOUT_SECONDS", "soon", "AI_TIMEOUT_SECONDS: must be a number"),
        ("AI_PROVIDER", "gemini", "AI_PROVIDER: must be one of 'openai' or 'offline'"),
        ("DEFAULT_PLAN", "GOLD", "DEFAULT_PLAN: must be one of 'FREE', 'PRO' or 'BUSINESS'"),
        ("ENABLE_QUEUE_PROCESSORS", "perhaps", "ENABLE_QUEUE_PROCESSORS: must be true or false"),
        ("BROKER_QUEUE_PREFIX", "a b", "BROKER_QUEUE_PREFIX: must match ^[A-Za-z0-9._-]{1,100}$"),
        ("EXECUTOR_DATABASE_URL", "", "EXECUTOR_DATABASE_URL: is not set, and there is no default"),
        ("AUTH_JWT_SECRET", "short", "AUTH_JWT_SECRET"),
        ("AUTH_MODE", "off", "AUTH_MODE: must be one of 'jwt' or 'disabled'"),
    ],
)
def test_a_bad_value_is_reported_in_our_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str, value: str, words: str
) -> None:
    monkeypatch.setenv("EXECUTOR_DATABASE_URL", "postgresql://u:p@localhost/d")
    monkeypatch.setenv("AUTH_MODE", "disabled")
    monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit):
        settings.load(ExecutorSettings)
    printed = capsys.readouterr().err
    assert words in printed
    for pydantic in ("Value error", "Input should", "Field required", "after validation", "should have", "{"):
        assert pydantic not in printed.replace("{1,100}", "")
