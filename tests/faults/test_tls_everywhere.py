"""Every connection with TLS and a certificate on both ends: callers and services, PostgreSQL, RabbitMQ."""

import os
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from playbooks.executor.v1 import catalog_service_pb2 as catalog
from playbooks.runs.v1.run_pb2 import Run

from devstack.ports import HOST, free_ports
from devstack.postgres import Postgres
from executor_service import app as executor_app
from executor_service.settings import ExecutorSettings
from runs_client.client import RunsClient
from runs_client.executor import ExecutorClient
from runs_service import app as runs_app
from runs_service.settings import RunsSettings
from servicekit.broker import BrokerUnavailable, MessageSigner, Publisher
from servicekit.telemetry.metrics import Metrics
from tests.support.certificates import Authority
from tests.support.prepared import EXECUTOR_TEMPLATE, RUNS_TEMPLATE
from tests.support.tls_front import TlsFront
from tests.support.tokens import SECRET, hs256
from tests.support.waiting import eventually

RABBITMQ = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
TITLES = "missing_seo_title"


def pem(authority: Authority, name: str) -> dict[str, str]:
    """Return the files of a new certificate, as strings."""
    certificate, key = authority.issue(name)
    key.chmod(0o600)  # as libpq demands
    return {"ca": str(authority.file), "certificate": str(certificate), "key": str(key)}


def demanding(authority: Authority) -> ssl.SSLContext:
    """Return what a server needs that lets nobody in without a certificate of the authority."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority.file)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(*authority.issue("postgres"))
    return context


@contextmanager
def rabbitmq(folder: Path, authority: Authority) -> Iterator[int]:
    """Run a RabbitMQ whose only listener is one with TLS for clients with a certificate; yield its port."""
    files = pem(authority, "rabbitmq")
    port, distribution, mapper = free_ports(3)
    folder.mkdir()
    (folder / "rabbitmq.conf").write_text(
        f"""
        listeners.tcp = none
        listeners.ssl.1 = {HOST}:{port}
        ssl_options.cacertfile = {files["ca"]}
        ssl_options.certfile = {files["certificate"]}
        ssl_options.keyfile = {files["key"]}
        ssl_options.verify = verify_peer
        ssl_options.fail_if_no_peer_cert = true
        """.replace("        ", "")
    )
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "LANG": "C.UTF-8",
        "RABBITMQ_NODENAME": "tls@localhost",
        "RABBITMQ_DIST_PORT": str(distribution),
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq"),
        "RABBITMQ_PID_FILE": str(folder / "pid"),
        "ERL_EPMD_ADDRESS": HOST,
        "ERL_EPMD_RELAXED_COMMAND_CHECK": "1",  # it may be ended while a node that was killed is in its list
        "ERL_EPMD_PORT": str(mapper),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none -kernel inet_dist_use_interface {127,0,0,1}",
    }
    with (folder / "output").open("wb") as output:
        running = subprocess.Popen([RABBITMQ], env=env, stdout=output, stderr=output, start_new_session=True)
    try:
        yield port
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        # Erlang's mapper of ports is a daemon, which would stay.
        subprocess.run(["epmd", "-kill"], env=env, check=True, capture_output=True)


def is_there(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), 1).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not RABBITMQ.exists(), reason="rabbitmq-server")
async def test_a_run_over_tls_everywhere(postgres_server: Postgres, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    ours = pem(authority, "ours")
    in_database = f"sslmode=verify-full&sslrootcert={ours['ca']}&sslcert={ours['certificate']}&sslkey={ours['key']}"
    in_broker = f"ssl_ca_certs={ours['ca']}&ssl_certfile={ours['certificate']}&ssl_keyfile={ours['key']}"
    with rabbitmq(tmp_path / "mq", authority) as port:
        await eventually(lambda: is_there(port), timeout=60)
        common: dict[str, Any] = {
            "listen": f"{HOST}:0",
            "auth_jwt_secret": SECRET,
            "broker_url": f"amqps://guest:guest@{HOST}:{port}//?{in_broker}",
            "tls_cert_file": ours["certificate"],
            "tls_key_file": ours["key"],
            "tls_client_ca_file": ours["ca"],
        }
        of_caller: dict[str, Any] = {
            "token": hs256(),
            "ca_file": authority.file,
            "cert_file": Path(ours["certificate"]),
            "key_file": Path(ours["key"]),
        }

        async with TlsFront(HOST, postgres_server.port, demanding(authority)) as front:

            def database(name: str, parameters: str = in_database) -> str:
                url = postgres_server.url(database=name).replace(f":{postgres_server.port}/", f":{front.port}/")
                return f"{url}?{parameters}"

            executor_settings = ExecutorSettings(
                ai_provider="offline", default_plan="BUSINESS", database_url=database(EXECUTOR_TEMPLATE), **common
            )
            async with executor_app.serving(executor_settings) as executor:
                runs_settings = RunsSettings(
                    executor_target=executor.address, database_url=database(RUNS_TEMPLATE), **common
                )
                async with (
                    runs_app.serving(runs_settings) as runs,
                    ExecutorClient(executor.address, **of_caller) as shop,
                    RunsClient(runs.address, **of_caller) as client,
                ):
                    await shop.put_project("p")
                    await shop.put_products("p", [catalog.Product(id="1", title="Chair")])
                    run = (await client.create("p", TITLES, Run.PREVIEW_GENERATE)).run
                    assert [change.run.status async for change in client.watch("p", run.id)][-1] == Run.SUCCEEDED
            assert len(front.names) > 2
            assert set(front.names) == {"ours"}
            assert not front.plain
            # Who is no PostgreSQL of ours gets no password.
            other = in_database.replace(str(authority.file), str(Authority(tmp_path / "other").file))
            with pytest.raises(psycopg.OperationalError, match="SSL error"):
                await psycopg.AsyncConnection.connect(database("postgres", other))
        # RabbitMQ lets nobody in without a certificate.
        publisher = Publisher(
            f"amqps://guest:guest@{HOST}:{port}//?ssl_ca_certs={ours['ca']}", "q", Metrics(), MessageSigner([SECRET])
        )
        with pytest.raises(BrokerUnavailable):
            await publisher.publish(b"one")
        await publisher.close()
