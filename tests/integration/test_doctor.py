"""What the services' checks say of each thing that may be wrong, over real databases, brokers and services."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import executor_service.app
import executor_service.check
import runs_service.app
import runs_service.check
from devstack.doctor import findings
from devstack.ports import HOST
from devstack.valkey import Valkey
from executor_service.settings import ExecutorSettings
from runs_service.settings import RunsSettings
from servicekit.broker.diagnosis import broker_finding
from servicekit.diagnosis import Finding, Status
from servicekit.postgres.diagnosis import clock_finding, database_findings
from tests.integration.test_poolers import parts, through
from tests.support.certificates import Authority
from tests.support.gateway import gateway
from tests.support.openai_protocol import Behaviour
from tests.support.openai_server import OpenAIServer
from tests.support.pooler import Pooler
from tests.support.tokens import SECRET, hs256

NOBODY = f"{HOST}:1"
OTHER_SECRET = "another-" * 5
FAILED, OK, SKIPPED = Status.FAILED, Status.OK, Status.SKIPPED


@pytest.fixture
def settings(runs_database_url: str, executor_database_url: str, valkey_server: Valkey) -> Mapping[str, Any]:
    """What both services need, with nobody at any address."""
    return {
        "RUNS_DATABASE_URL": runs_database_url,
        "EXECUTOR_DATABASE_URL": executor_database_url,
        "broker_url": valkey_server.url,
        "auth_jwt_secret": SECRET,
        "executor_target": NOBODY,
        "ai_provider": "offline",
    }


@pytest.fixture
async def executor(settings: Mapping[str, Any]) -> AsyncIterator[str]:
    """The address of an executor."""
    given = dict(settings) | {"EXECUTOR_LISTEN": f"{HOST}:0", "broker_url": None}
    async with executor_service.app.serving(ExecutorSettings(**given)) as server:
        yield server.address


async def of_runs(settings: Mapping[str, Any], **changed: Any) -> dict[str, Finding]:
    found = await runs_service.check.check(RunsSettings(**{**settings, **changed}), False)
    return {finding.check: finding for finding in found}


async def of_executor(settings: Mapping[str, Any], *, ai: bool = False, **changed: Any) -> dict[str, Finding]:
    found = await executor_service.check.check(ExecutorSettings(**{**settings, **changed}), ai)
    return {finding.check: finding for finding in found}


def says(finding: Finding, status: Status, *words: str) -> None:
    assert finding.status is status, finding
    assert bool(finding.advice) is (status is FAILED)
    assert all(word in f"{finding.message} {finding.advice}" for word in words), finding


async def test_what_is_there_is_ok_and_what_is_away_has_its_address_and_what_to_do(settings: Mapping[str, Any]) -> None:
    found = await of_runs(settings, RUNS_LISTEN=NOBODY)
    fine = ("database", "clock", "schema", "role settings", "notifications", "broker")
    for name in fine:
        says(found[f"runs {name}"], OK)
    says(found["runs → executor"], FAILED, NOBODY, "EXECUTOR_TARGET")
    says(found["runs service"], FAILED, NOBODY, "RUNS_LISTEN")
    says(found["runs token"], SKIPPED)


async def test_an_executor_that_runs_is_found_and_one_with_another_secret_refuses(
    settings: Mapping[str, Any], executor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    says((await of_runs(settings, executor_target=executor))["runs → executor"], OK, executor)
    stranger = await of_runs(settings, executor_target=executor, auth_jwt_secret=OTHER_SECRET)
    says(stranger["runs → executor"], FAILED, "UNAUTHENTICATED", "AUTH_JWT_SECRET")
    found = await of_executor(settings, EXECUTOR_LISTEN=executor)
    says(found["executor service"], OK, executor)
    says(found["executor token"], OK)
    stranger = await of_executor(settings, EXECUTOR_LISTEN=executor, auth_jwt_secret=OTHER_SECRET)
    says(stranger["executor token"], FAILED, "UNAUTHENTICATED", "AUTH_JWT_SECRET")
    for lifetime, status, word in ((3600, OK, "valid until"), (-60, FAILED, "expired")):
        token = hs256(exp=int(datetime.now(UTC).timestamp()) + lifetime)
        monkeypatch.setenv("PLAYBOOK_RUNS_TOKEN", token)
        says((await of_executor(settings, EXECUTOR_LISTEN=executor))["executor token"], status, word)


async def test_a_database_that_is_away_and_one_without_its_schema(
    settings: Mapping[str, Any], empty_database_url: str
) -> None:
    away = await of_runs(settings, RUNS_DATABASE_URL="postgresql://u:hidden-word@127.0.0.1:1/d")
    says(away["runs database"], FAILED, "RUNS_DATABASE_URL")
    assert "hidden-word" not in away["runs database"].message
    says(away["runs schema"], SKIPPED)
    empty = await of_executor(settings, EXECUTOR_DATABASE_URL=empty_database_url)
    says(empty["executor database"], OK)
    says(empty["executor schema"], FAILED, "executor-service migrate")


async def test_what_a_pooler_takes_away_and_how_it_is_given_back(runs_database_url: str) -> None:
    async with Pooler(HOST, parts(runs_database_url).port) as pooler:
        url = through(runs_database_url, pooler.port)
        found = await database_findings(
            url,
            service="runs",
            schema="runs",
            scripts=runs_service.app.MIGRATIONS,
            command="runs-service",
            variable="RUNS_DATABASE_URL",
            listen_url=url,
        )
    by_name = {finding.check: finding for finding in found}
    says(by_name["runs schema"], OK)
    says(by_name["runs role settings"], FAILED, "plan_cache_mode", "ALTER ROLE")
    says(by_name["runs notifications"], FAILED, "RUNS_LISTEN_DATABASE_URL")


def test_a_clock_that_is_off_by_more_than_tokens_take() -> None:
    now = datetime.now(UTC)
    says(clock_finding("clock", ours=now, theirs=now - timedelta(seconds=10)), OK, "10.0 s")
    for off in (45, -45):
        says(clock_finding("clock", ours=now, theirs=now + timedelta(seconds=off)), FAILED, "45.0 s", "NTP")


async def test_a_message_goes_to_the_broker_and_comes_back(url: str, queue: str) -> None:
    says(await broker_finding("broker", url, queue), OK)


async def test_a_broker_that_is_away_that_refuses_and_that_is_not_wanted() -> None:
    for url in (f"redis://:hidden-word@{NOBODY}/0", f"amqp://u:hidden-word@{NOBODY}//"):
        finding = await broker_finding("broker", url, "playbook-runs")
        says(finding, FAILED, "BROKER_URL")
        assert "hidden-word" not in finding.message
    says(await broker_finding("broker", None, "playbook-runs"), SKIPPED, "inline")


async def test_the_ai_provider_is_asked_only_when_that_is_wanted(
    settings: Mapping[str, Any], few_authorities: None
) -> None:
    says((await of_executor(settings))["executor AI"], OK, "offline")
    with OpenAIServer() as server:
        model = {
            "ai_provider": "openai",
            "openai_api_key": server.api_key,
            "openai_base_url": server.base_url,
            "ai_model": "test-model",
        }
        says((await of_executor(settings, **model))["executor AI"], SKIPPED, "--ai")
        assert server.stats().requests == 0
        says((await of_executor(settings, ai=True, **model))["executor AI"], OK, "test-model")
        assert server.stats().requests == 1
        server.behave(Behaviour(status=401, times=9))
        says((await of_executor(settings, ai=True, **model))["executor AI"], FAILED, "OPENAI_API_KEY")
    no_key = await of_executor(settings, ai_provider="openai")
    says(no_key["executor AI"], FAILED, "OPENAI_API_KEY")


def test_a_bad_variable_a_gateway_that_is_away_and_a_service_that_is_elsewhere(tmp_path: Path) -> None:
    environment = {"RUNS_DATABASE_URL": "postgresql://u:p@h/d", "AUTH_JWT_SECRET": "short", "GATEWAY_LISTEN": NOBODY}
    found = {finding.check: finding for finding in findings(environment, with_ai=False)}
    says(found["runs settings"], FAILED, "AUTH_JWT_SECRET")
    says(found["executor service"], SKIPPED, "EXECUTOR_DATABASE_URL")
    says(found["gateway"], FAILED, NOBODY, "runs-gateway")


@pytest.mark.parametrize("names", [{"ca": True}, {"cert": True, "ca": True}, {"cert": True, "clients": True}])
async def test_a_gateway_is_asked_as_its_certificates_demand(tmp_path: Path, names: Mapping[str, bool]) -> None:
    """It reaches no service here, and says so over HTTP, HTTPS or mutual TLS."""
    authority = Authority(tmp_path)
    certificate, key = authority.issue("gateway")
    files = {
        **({"TLS_CERT_FILE": certificate, "TLS_KEY_FILE": key} if "cert" in names else {}),
        **({"TLS_CA_FILE": authority.file} if "ca" in names else {}),
        **({"TLS_CLIENT_CA_FILE": authority.file} if "clients" in names else {}),
    }
    async with gateway(**{name.lower(): file for name, file in files.items()}) as url:
        environment = {"GATEWAY_LISTEN": url.partition("//")[2]} | {name: str(file) for name, file in files.items()}
        found = await asyncio.to_thread(lambda: {each.check: each for each in findings(environment, with_ai=False)})
    says(found["gateway"], FAILED, "runs-service is UNREACHABLE", "RUNS_TARGET")
