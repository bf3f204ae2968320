"""The metrics of a stack that has worked: served as documented, and right."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, contextmanager
from uuid import uuid4

import pytest
from playbooks.executor.v1.catalog_service_pb2 import Product, Project
from playbooks.runs.v1.run_pb2 import Run
from prometheus_client.metrics_core import Metric

from devstack.ports import HOST, free_ports
from devstack.postgres import Postgres
from devstack.valkey import Valkey
from executor_service import app as executor_app
from executor_service.settings import ExecutorSettings
from gateway import app as gateway_app
from gateway.settings import GatewaySettings
from runs_client.client import RunsClient
from runs_client.executor import ExecutorClient
from runs_service import app as runs_app
from runs_service.settings import RunsSettings
from tests.conftest import new_database
from tests.support.broker import delete_queues
from tests.support.http import client, watching
from tests.support.metrics import Scrape, scrape
from tests.support.openai_protocol import Behaviour
from tests.support.openai_server import OpenAIServer
from tests.support.operations import documented_metrics
from tests.support.prepared import EXECUTOR_TEMPLATE, RUNS_TEMPLATE
from tests.support.promtool import run_promtool

MODEL = "gpt-6-luna"
PRICES = {MODEL: {"input": 10, "cached_input": 1, "output": 100}}
PREVIEW = {"type": "PREVIEW_GENERATE"}


@pytest.fixture(scope="module")
async def served(postgres_server: Postgres, valkey_server: Valkey) -> AsyncIterator[dict[str, Scrape]]:
    """What the two services and the gateway serve after a preview, a run of no project, and a request."""
    prefix = f"test-{uuid4().hex[:12]}"
    ports = dict(zip(("runs-service", "executor-service", "runs-gateway"), free_ports(3), strict=True))
    metrics = {name: f"{HOST}:{port}" for name, port in ports.items()}
    common = {
        "listen": f"{HOST}:0", "auth_mode": "disabled", "broker_url": valkey_server.url, "broker_queue_prefix": prefix
    }  # fmt: skip
    database = contextmanager(new_database)
    async with AsyncExitStack() as stack:
        openai = stack.enter_context(OpenAIServer())
        openai.behave(Behaviour(status=429, times=1))
        executor = await stack.enter_async_context(
            executor_app.serving(
                ExecutorSettings(
                    **common,
                    metrics_listen=metrics["executor-service"],
                    database_url=stack.enter_context(database(postgres_server, template=EXECUTOR_TEMPLATE)),
                    ai_provider="openai",
                    openai_api_key=openai.api_key,
                    openai_base_url=openai.base_url,
                    ai_model=MODEL,
                    ai_prices=json.dumps(PRICES),
                )
            )
        )
        runs = await stack.enter_async_context(
            runs_app.serving(
                RunsSettings(
                    **common,
                    metrics_listen=metrics["runs-service"],
                    database_url=stack.enter_context(database(postgres_server, template=RUNS_TEMPLATE)),
                    executor_target=executor.address,
                )
            )
        )
        gateway = await stack.enter_async_context(
            gateway_app.serving(
                GatewaySettings(
                    listen=f"{HOST}:0",
                    runs_target=runs.address,
                    executor_target=executor.address,
                    metrics_listen=metrics["runs-gateway"],
                )
            )
        )
        await work(runs.address, executor.address, f"http://{gateway.address}")
        yield {name: await scrape(port) for name, port in ports.items()}
    delete_queues(valkey_server.url, f"{prefix}.jobs", f"{prefix}.events")


async def work(runs_target: str, executor_target: str, gateway_url: str) -> None:
    """Have two previews of the same products succeed and one of no project fail, and ask for a run over HTTP."""
    async with (
        RunsClient(runs_target, timeout=20) as runs,
        ExecutorClient(executor_target, timeout=20) as executor,
        client(gateway_url) as http,
    ):
        await executor.put_project("shop", Project.BUSINESS)
        await executor.put_products("shop", [Product(id=str(n), title=f"Thing {n}") for n in range(3)])
        preview = (await runs.create("shop", "missing_seo_title", Run.PREVIEW_GENERATE)).run
        assert await ended(runs, preview) == Run.SUCCEEDED
        again = (await runs.create("shop", "missing_seo_title", Run.PREVIEW_GENERATE, idempotency_key="again")).run
        assert await ended(runs, again) == Run.SUCCEEDED
        lost = (await runs.create("no-shop", "missing_seo_title", Run.PREVIEW_GENERATE)).run
        assert await ended(runs, lost) == Run.FAILED
        path = f"/api/projects/shop/automation-playbooks/runs/{preview.id}"
        assert (await http.get(path)).status_code == 200
        async with watching(http, f"{path}:watch") as stream:
            while await stream.next():
                pass


async def ended(runs: RunsClient, run: Run) -> Run.Status.ValueType:
    return [change.run.status async for change in runs.watch(run.project_id, run.id)][-1]


def test_runs_are_counted_by_type_status_and_error_code_and_timed(served: dict[str, Scrape]) -> None:
    runs = served["runs-service"]
    assert runs.value("playbook_runs_created_total", run_type="PREVIEW_GENERATE") == 3
    assert runs.value("playbook_runs_created_total", run_type="APPLY") == 0
    succeeded = {"run_type": "PREVIEW_GENERATE", "status": "SUCCEEDED", "error_code": ""}
    failed = {"run_type": "PREVIEW_GENERATE", "status": "FAILED", "error_code": "PROJECT_NOT_FOUND"}
    assert runs.value("playbook_runs_ended_total", **succeeded) == 2
    assert runs.value("playbook_runs_ended_total", **failed) == 1
    for name in ("wait", "work", "duration"):
        assert runs.value(f"playbook_runs_{name}_seconds_count", run_type="PREVIEW_GENERATE") == 3, name
    spent = {
        name: runs.value(f"playbook_runs_{name}_seconds_sum", run_type="PREVIEW_GENERATE")
        for name in ("wait", "work", "duration")
    }
    assert 0 < spent["work"] < spent["duration"] < 60
    assert spent["wait"] + spent["work"] == pytest.approx(spent["duration"], abs=0.001)


def test_ai_requests_tokens_and_what_they_cost_are_counted_by_model(served: dict[str, Scrape]) -> None:
    executor = served["executor-service"]
    assert executor.value("playbook_runs_ai_requests_total", model=MODEL, outcome="AI_RATE_LIMITED") == 1
    assert executor.value("playbook_runs_ai_requests_total", model=MODEL, outcome="OK") == 1
    assert executor.value("playbook_runs_ai_request_seconds_count", model=MODEL) == 2
    assert executor.value("playbook_runs_ai_retries_total", model=MODEL) == 1
    read = executor.value("playbook_runs_ai_input_tokens_total", model=MODEL)
    cached = executor.value("playbook_runs_ai_cached_input_tokens_total", model=MODEL)
    written = executor.value("playbook_runs_ai_output_tokens_total", model=MODEL)
    assert (read, written) == (100, 20)
    cost = ((read - cached) * 10 + cached * 1 + written * 100) / 1_000_000
    assert executor.value("playbook_runs_ai_cost_dollars_total", model=MODEL) == pytest.approx(cost)
    assert executor.value("playbook_runs_suggestions_total", source="provider") == 3
    assert executor.value("playbook_runs_suggestions_total", source="stored") == 3


def test_calls_attempts_watchers_and_the_parts_a_service_rests_on_are_there(served: dict[str, Scrape]) -> None:
    runs, executor, gateway = (served[name] for name in ("runs-service", "executor-service", "runs-gateway"))
    method = "/playbooks.runs.v1.RunsService/CreateRun"
    assert runs.value("grpc_server_calls_total", method=method, code="OK") == 3
    assert runs.value("grpc_server_call_seconds_count", method=method) == 3
    assert executor.value("playbook_runs_attempts_total", kind="first") == 3
    assert executor.value("playbook_runs_executing") == 0
    assert executor.value("playbook_runs_slots") == 16
    assert runs.value("playbook_runs_watchers", of="run") == 0
    for service, pool in ((runs, "runs"), (executor, "leases"), (executor, "work"), (executor, "callers")):
        assert service.value("playbook_runs_database_up") == 1
        assert service.value("playbook_runs_database_pool_size", pool=pool) >= 2, pool
        assert service.value("playbook_runs_database_connections", pool=pool, state="idle") > 0, pool
    links = {labels for service in (runs, executor) for name, labels in service.samples if name == "broker_connected"}
    assert len(links) == 4
    assert all(
        service.samples.get(("broker_connected", link), 1) == 1 for link in links for service in (runs, executor)
    )
    watch = "/api/projects/{project_id}/automation-playbooks/runs/{run_id}:watch"
    assert gateway.value("http_requests_total", method="GET", route=watch, status="200") == 1


def test_what_waits_is_measured_at_the_start(served: dict[str, Scrape]) -> None:
    for service, name in (("runs-service", "queued"), ("executor-service", "inbox")):
        assert (f"playbook_runs_{name}", frozenset()) in served[service].samples
        assert served[service].value(f"playbook_runs_{name}") == 0


@pytest.mark.parametrize("service", ["runs-service", "executor-service", "runs-gateway"])
def test_what_is_served_is_what_the_documentation_lists(served: dict[str, Scrape], service: str) -> None:
    metrics = {metric.name: metric for metric in documented_metrics() if service in metric.services}
    families = served[service].families.values()
    assert {name_of(family): family.type for family in families} == {one.name: one.kind for one in metrics.values()}
    for family in families:
        for sample in family.samples:
            labels = frozenset(sample.labels) - {"le"}
            assert labels == metrics[name_of(family)].labels, sample


def name_of(family: Metric) -> str:
    """Return the name of a family as its samples have it."""
    return f"{family.name}_total" if family.type == "counter" else str(family.name)


@pytest.mark.parametrize("service", ["runs-service", "executor-service", "runs-gateway"])
def test_promtool_finds_no_fault_with_what_is_served(served: dict[str, Scrape], service: str) -> None:
    assert run_promtool("check", "metrics", input=served[service].text) == ""
