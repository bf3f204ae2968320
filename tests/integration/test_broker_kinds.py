"""Brokers other than a lone Redis that lets us do anything: restricted users, Sentinel, TLS, cluster mode, refusals."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from devstack.ports import HOST, free_ports
from devstack.valkey import Valkey
from servicekit.background.tasks import running
from servicekit.broker import BrokerUnavailable, Consumer, MessageSigner, Publisher
from servicekit.telemetry.metrics import Metrics
from tests.support.certificates import Authority
from tests.support.waiting import eventually

SIGNER = MessageSigner(("a secret of the services: 32 or more",))
QUEUE = "shop.jobs"
BINARY = "/usr/bin/redis-server"
REDIS = pytest.mark.skipif(not Path(BINARY).exists(), reason="there is no redis-server (Sentinel, TLS, cluster mode)")


@contextmanager
def server(folder: Path, *options: str) -> Iterator[int]:
    """Run a redis-server of our own; yield its port."""
    (port,) = free_ports(1)
    folder.mkdir(exist_ok=True)
    given = options if "--port" in options else ("--port", str(port), *options)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([BINARY, *given, "--dir", str(folder), "--save", ""], stdout=log, stderr=log)
        try:
            yield port
        finally:
            process.kill()
            process.wait()


async def answers(port: int, **options: object) -> None:
    def ping() -> bool:
        try:
            return bool(redis.Redis(HOST, port, **options).ping())  # type: ignore[arg-type]
        except redis.ConnectionError:
            return False

    await eventually(ping)


async def passes(url: str) -> None:
    """Require that a message gets from a publisher to a consumer."""
    arrived: list[bytes] = []

    async def take(bodies: object) -> list[object]:
        arrived.extend(bodies)  # type: ignore[arg-type]
        return []

    publisher = Publisher(url, QUEUE, Metrics(), SIGNER)
    try:
        await publisher.require_suitable()
        await publisher.publish(b"one")
        async with running(Consumer(url, QUEUE, take, Metrics(), SIGNER)):  # type: ignore[arg-type]
            await eventually(lambda: arrived == [b"one"])
    finally:
        await publisher.close()


async def why(url: str) -> str:
    """Return why a message cannot be published."""
    publisher = Publisher(url, QUEUE, Metrics(), SIGNER)
    try:
        with pytest.raises(BrokerUnavailable):
            await publisher.publish(b"one")
        return publisher.outage.reason
    finally:
        await publisher.close()


async def test_a_user_that_is_restricted_to_our_prefix_can_do_all(valkey_server: Valkey) -> None:
    admin = redis.Redis.from_url(valkey_server.url)
    admin.acl_setuser(
        "shop", enabled=True, reset=True, passwords=["+hidden"], keys=["shop.*"], commands=["+@all", "-@admin"]
    )
    port = valkey_server.url.rpartition(":")[2]
    try:
        await passes(f"redis://shop:hidden@{HOST}:{port}")
    finally:
        admin.acl_deluser("shop")


async def test_why_the_broker_refuses_is_logged_once_and_without_the_password(
    valkey_server: Valkey, amqp_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    port = valkey_server.url.rpartition(":")[2]
    assert "invalid username-password pair" in await why(f"redis://nobody:hidden@{HOST}:{port}")
    host = amqp_url.rpartition("@")[2].rstrip("/")
    users = amqp_url.rpartition("@")[0] or "amqp://guest:guest"
    assert "vhost" in await why(f"{users.removesuffix('@')}@{host.partition('/')[0]}/nowhere")
    assert "REFUSED" in (await why(f"amqp://guest:hidden@{host.partition('/')[0]}//")).upper()
    lines = [record.getMessage() for record in caplog.records if "takes nothing for" in record.getMessage()]
    assert len(lines) == 3
    assert "hidden" not in caplog.text


@REDIS
async def test_sentinel_names_the_master(tmp_path: Path) -> None:
    with server(tmp_path / "master") as master:
        (port,) = free_ports(1)
        configuration = tmp_path / "sentinel.conf"
        configuration.write_text(f"port {port}\nsentinel monitor main {HOST} {master} 1\n")
        with (tmp_path / "log").open("wb") as log:
            sentinel = subprocess.Popen([BINARY, str(configuration), "--sentinel"], stdout=log, stderr=log)  # noqa: ASYNC220
        try:
            await answers(master)
            await answers(port)
            await passes(f"sentinel://{HOST}:{port}/0?master_name=main")
            # One of two is away.
            await passes(f"sentinel://{HOST}:{port};sentinel://{HOST}:1/0?master_name=main")
            assert "No master found" in await why(f"sentinel://{HOST}:{port}/0?master_name=other")
        finally:
            sentinel.kill()
            sentinel.wait()


@REDIS
async def test_cluster_mode_is_refused_with_the_reason(tmp_path: Path) -> None:
    (bus,) = free_ports(1)
    with server(tmp_path / "cluster", "--cluster-enabled", "yes", "--cluster-port", str(bus)) as port:
        await answers(port)
        publisher = Publisher(f"redis://{HOST}:{port}/0", QUEUE, Metrics(), SIGNER)
        with pytest.raises(SystemExit, match="BROKER_URL: Redis is in cluster mode"):
            await publisher.require_suitable()
        await publisher.close()
        assert "cluster mode" in await why(f"redis://{HOST}:{port}/0")


@REDIS
async def test_tls_is_verified_unless_that_is_switched_off(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    certificate, key = authority.issue("broker")
    (port,) = free_ports(1)
    tls = ("--tls-port", str(port), "--tls-cert-file", str(certificate), "--tls-key-file", str(key))
    with server(
        tmp_path / "tls", "--port", "0", *tls, "--tls-auth-clients", "no", "--tls-ca-cert-file", str(authority.file)
    ):
        await answers(port, ssl=True, ssl_cert_reqs="none", ssl_check_hostname=False)
        assert "certificate verify failed" in await why(f"rediss://{HOST}:{port}/0")
        await passes(f"rediss://{HOST}:{port}/0?ssl_ca_certs={authority.file}")
        await passes(f"rediss://{HOST}:{port}/0?ssl_cert_reqs=none")
