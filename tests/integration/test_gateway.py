"""The gateway before nobody: what strangers send, what browsers may do, limits, TLS."""

import asyncio
import json
import logging
import socket
import ssl
from collections.abc import AsyncIterator
from http import HTTPStatus
from pathlib import Path

import httpx2
import pytest

from devstack.ports import HOST
from tests.support.certificates import Authority
from tests.support.gateway import RUNS, TOKEN, gateway
from tests.support.http import client
from tests.support.waiting import eventually


async def test_a_service_that_is_not_there_is_a_503_that_says_nothing_of_the_inside() -> None:
    async with gateway() as url, client(url, TOKEN) as http:
        answers = [await http.get(RUNS), await http.get(f"{RUNS}/{'0' * 8}:watch"), await http.get("/readyz")]
        assert (await http.get("/healthz")).json() == {"status": "alive"}
    assert [answer.status_code for answer in answers] == [503] * 3
    assert all(answer.headers["retry-after"] == "1" for answer in answers)
    assert not any(port in answer.text for answer in answers for port in (":1", "127.0.0.1"))
    assert answers[2].json()["metadata"] == {"runs-service": "UNREACHABLE", "executor-service": "UNREACHABLE"}


@pytest.fixture(scope="module")
async def alone() -> AsyncIterator[str]:
    """The URL of a gateway without services."""
    async with gateway(gateway_cors_origins="https://shop.example") as url:
        yield url


async def test_every_answer_is_strict_with_browsers(alone: str) -> None:
    async with client(alone) as http:
        for path in ("/", "/healthz", "/openapi.json", RUNS):
            headers = (await http.get(path, headers={"x-request-id": "mine"})).headers
            assert headers["x-request-id"] == "mine"
            assert headers["x-content-type-options"] == "nosniff"
            assert "default-src 'none'" in headers["content-security-policy"]
            assert "server" not in headers
        assert len((await http.get("/healthz", headers={"x-request-id": "a b"})).headers["x-request-id"]) == 32


async def test_pages_of_other_origins_may_not_call_unless_configured(alone: str) -> None:
    preflight = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    async with client(alone) as http:
        known = await http.options(RUNS, headers={"origin": "https://shop.example", **preflight})
        assert known.headers["access-control-allow-origin"] == "https://shop.example"
        assert "access-control-allow-credentials" not in known.headers
        unknown = await http.options(RUNS, headers={"origin": "https://evil.example", **preflight})
        assert "access-control-allow-origin" not in unknown.headers
        assert unknown.status_code == HTTPStatus.BAD_REQUEST
        # A POST without a body needs no preflight.
        for origin, status in (
            ("https://evil.example", 403),
            ("null", 403),
            ("https://shop.example", 503),
            (alone, 503),
        ):
            answer = await http.post(f"{RUNS}/r:cancel", headers={"origin": origin})
            assert answer.status_code == status, origin
        refused = await http.get(RUNS, headers={"origin": "https://shop.example"})
        assert refused.headers["access-control-allow-origin"] == "https://shop.example"  # or a page could not read it
        assert "retry-after" in refused.headers["access-control-expose-headers"]


async def test_large_bodies_are_refused_before_they_are_read(alone: str) -> None:
    head = b"POST %b/r:cancel HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n" % RUNS.encode()
    told = await raw(alone, head + b"content-length: 104857600\r\n\r\n")
    assert told.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in told
    chunk = b"10000\r\n" + b" " * 65_536 + b"\r\n"
    unsaid = await raw(alone, head + b"transfer-encoding: chunked\r\n\r\n" + chunk * 9)
    assert unsaid.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    "sent",
    [b"", b"\r\n", b"GET / HT", b"GET / HTTP/1.1\r\nhost: x\r\n", b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n\r\nGET"],
)
async def test_headers_that_do_not_come_end_the_connection(sent: bytes) -> None:
    async with gateway(max_receive_seconds=0.5) as url, asyncio.timeout(20):
        reader, writer = await asyncio.open_connection(HOST, int(url.rpartition(":")[2]))
        writer.write(sent)
        told = await reader.read()
        writer.close()
    assert b"HTTP/1.1 408 " in told
    assert (b"HTTP/1.1 200 " in told) == (b"healthz" in sent)


async def test_a_body_that_does_not_come_ends_the_request() -> None:
    async with gateway(max_receive_seconds=0.5) as url:
        head = b"POST %b/r:cancel HTTP/1.1\r\nhost: x\r\n" % RUNS.encode()
        assert (await raw(url, head + b"content-length: 5\r\n\r\n{}")).startswith(b"HTTP/1.1 408 ")


async def test_connections_have_a_limit() -> None:
    async with gateway(max_connections=2) as url, client(url) as http, asyncio.timeout(20):
        await http.get("/healthz")
        held = [await asyncio.open_connection(HOST, int(url.rpartition(":")[2])) for _ in range(2)]
        told = await held[1][0].read()
        assert told.startswith(b"HTTP/1.1 503 ")
        assert (await http.get("/healthz")).status_code == HTTPStatus.OK
        for _, writer in held:
            writer.close()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HTTP/1.1\r\nhost: x\r\nx: %b\r\n\r\n" % (b"x" * 70_000), b"431"),
        (b"GET /%b HTTP/1.1\r\nhost: x\r\n\r\n" % (b"x" * 70_000), b"431"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),
        (b"GET / HTTP/9.9\r\n\r\n", b"400"),
        (b"GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", b"400"),
    ],
)
async def test_what_is_no_request_is_refused_without_a_line_in_the_log(
    alone: str, sent: bytes, status: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await raw(alone, sent)
    assert answer.startswith(b"HTTP/1.1 " + status), answer
    assert b'"statusCode":' + status in answer
    assert not [record for record in caplog.records if record.levelno >= logging.INFO], caplog.text


async def raw(url: str, sent: bytes) -> bytes:
    """Send bytes on a connection, and return what comes until its end or the end of an answer."""
    reader, writer = await asyncio.open_connection(HOST, int(url.rpartition(":")[2]))
    writer.write(sent)
    try:
        async with asyncio.timeout(10):
            head = await reader.readuntil(b"\r\n\r\n")
            return head + await reader.read(65_536)
    finally:
        writer.close()


async def test_tokens_come_in_one_header_and_never_reach_the_log(alone: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        async with client(alone) as http:
            headers = {"authorization": f"Bearer {TOKEN}"}
            await http.get(f"{RUNS}?token={TOKEN}")
            await http.get(RUNS, headers=headers)
            await http.get(f"/{TOKEN}", headers=headers)
            twice = await http.get(RUNS, headers=[("authorization", "Bearer a"), ("authorization", "Bearer b")])
            odd = await http.get(RUNS, headers={"authorization": b"Bearer \xff"})
    assert (twice.status_code, odd.status_code) == (401, 401)
    ours = [record for record in caplog.records if not record.name.startswith("http")]  # not the client's own lines
    assert TOKEN not in "\n".join(json.dumps(vars(record), default=str) for record in ours)
    assert {"gateway.edge"} <= {record.name for record in ours}


async def test_a_taken_port_is_said_with_its_variable() -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        where = f"{HOST}:{taken.getsockname()[1]}"
        with pytest.raises(SystemExit, match=f"cannot listen on {where} .GATEWAY_LISTEN.: is the port taken"):
            async with gateway(listen=where):
                pass


async def test_https_with_and_without_certificates_of_clients(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    certificate, key = authority.issue("gateway")
    trusting = ssl.create_default_context(cafile=authority.file)
    async with (
        gateway(tls_cert_file=certificate, tls_key_file=key) as url,
        client(url, verify=trusting) as http,
    ):
        answer = await http.get("/healthz")
        assert answer.headers["strict-transport-security"].startswith("max-age=")
    assert url.startswith("https://")
    async with gateway(tls_cert_file=certificate, tls_key_file=key, tls_client_ca_file=authority.file) as url:
        async with client(url, verify=trusting) as http:
            with pytest.raises(httpx2.TransportError):
                await http.get("/healthz")
        trusting.load_cert_chain(*authority.issue("client"))
        async with client(url, verify=trusting) as http:
            assert (await http.get("/healthz")).status_code == HTTPStatus.OK


async def test_a_certificate_that_is_replaced_is_served_without_a_restart(tmp_path: Path) -> None:
    first, second = Authority(tmp_path / "first"), Authority(tmp_path / "second")
    certificate, key = first.issue("gateway")
    async with gateway(tls_cert_file=certificate, tls_key_file=key) as url:

        async def is_trusted_by(authority: Authority) -> bool:
            async with client(url, verify=ssl.create_default_context(cafile=authority.file)) as http:
                try:
                    return (await http.get("/healthz")).status_code == HTTPStatus.OK
                except httpx2.TransportError:
                    return False

        assert await is_trusted_by(first)
        for file, other in zip((certificate, key), second.issue("gateway"), strict=True):
            other.replace(file)
        await eventually(lambda: is_trusted_by(second))
        assert not await is_trusted_by(first)


async def test_an_authority_of_clients_that_is_replaced_is_trusted_no_more(tmp_path: Path) -> None:
    server, first, second = (Authority(tmp_path / name) for name in ("server", "first", "second"))
    certificate, key = server.issue("gateway")
    clients = {authority: ssl.create_default_context(cafile=server.file) for authority in (first, second)}
    for authority, context in clients.items():
        context.load_cert_chain(*authority.issue("client"))

    async with gateway(tls_cert_file=certificate, tls_key_file=key, tls_client_ca_file=first.file) as url:
        address = url.removeprefix("https://").rpartition(":")

        def answers(authority: Authority, session: ssl.SSLSession | None = None) -> tuple[bool, ssl.SSLSession | None]:
            """Return whether a client gets an answer, and the session that it may resume."""
            with socket.create_connection((address[0], int(address[2])), timeout=10) as plain:
                try:
                    with clients[authority].wrap_socket(plain, server_hostname=HOST, session=session) as secure:
                        secure.sendall(b"GET /healthz HTTP/1.1\r\nhost: g\r\nconnection: close\r\n\r\n")
                        return secure.recv(12) == b"HTTP/1.1 200", secure.session
                except OSError:
                    return False, None

        is_answered, session = await asyncio.to_thread(answers, first)
        assert is_answered
        assert session
        assert not (await asyncio.to_thread(answers, second))[0]
        first.file.write_bytes(second.file.read_bytes())

        async def is_replaced() -> bool:
            return (await asyncio.to_thread(answers, second))[0]

        await eventually(is_replaced)
        assert not (await asyncio.to_thread(answers, first))[0]
        assert not (await asyncio.to_thread(answers, first, session))[0]  # nor by a session of before


async def test_routes_may_be_at_the_root_too() -> None:
    async with gateway(gateway_routes_at_root=True) as url, client(url, TOKEN) as http:
        assert (await http.get(RUNS.removeprefix("/api"))).status_code == HTTPStatus.SERVICE_UNAVAILABLE
