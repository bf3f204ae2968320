"""The manifests for Kubernetes: what the commands in them do as processes here, and what no pod may do."""

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from devstack.ports import HOST, free_ports
from executor_service.settings import ExecutorDatabaseSettings, ExecutorSettings
from gateway.settings import GatewaySettings
from runs_service.settings import RunsDatabaseSettings, RunsSettings
from servicekit.config.settings import CommandSettings
from tests.support.certificates import Authority
from tests.support.forking import Forks
from tests.support.tokens import SECRET
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/kubernetes"
SERVICES = ("runs-service", "executor-service", "gateway")


def documents() -> Iterator[dict[str, Any]]:
    for folder in ("migration", "services"):
        for file in sorted((FOLDER / folder).glob("*.yaml")):
            if file.name != "kustomization.yaml":
                yield from yaml.safe_load_all(file.read_text())


def of_kind(kind: str) -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one for one in documents() if one["kind"] == kind}


def pods() -> dict[str, dict[str, Any]]:
    return {name: one["spec"]["template"] for kind in ("Deployment", "Job") for name, one in of_kind(kind).items()}


def containers() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, pod in pods().items():
        for container in pod["spec"]["containers"]:
            yield name, container


def environment(container: dict[str, Any]) -> dict[str, str]:
    """Return the names of a container's variables with their values; those of secrets are as `<secret>.<key>`."""
    maps = of_kind("ConfigMap")
    found = {}
    for source in container.get("envFrom", []):
        found.update(maps[source["configMapRef"]["name"]]["data"])
    for variable in container.get("env", []):
        secret = variable["valueFrom"]["secretKeyRef"]
        found[variable["name"]] = f"{secret['name']}.{secret['key']}"
    return found


def variables(settings: type[CommandSettings]) -> set[str]:
    found = set()
    for name, field in settings.model_fields.items():
        alias = field.validation_alias
        found.add(str(alias.choices[0]) if alias and not isinstance(alias, str) else name.upper())  # type: ignore[union-attr]
    return found


def test_no_pod_can_do_more_than_it_must() -> None:
    assert set(pods()) == {*SERVICES, "migrate"}
    for name, pod in pods().items():
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["serviceAccountName"] == name
        assert spec["enableServiceLinks"] is False
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        assert all(volume.keys() & {"secret", "emptyDir"} for volume in spec["volumes"])
    user = re.search(r"^USER (\d+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert user
    assert {pod["spec"]["securityContext"]["runAsUser"] for pod in pods().values()} == {int(user[1])}
    for _, container in containers():
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }
        assert container["resources"].keys() == {"requests", "limits"}


def test_no_secret_is_in_the_manifests_and_each_has_what_it_needs_only() -> None:
    assert not of_kind("Secret")
    kinds: dict[str, type[CommandSettings]] = {
        "runs-service": RunsSettings,
        "executor-service": ExecutorSettings,
        "gateway": GatewaySettings,
        "runs-service migrate": RunsDatabaseSettings,
        "executor-service migrate": ExecutorDatabaseSettings,
    }
    secrets: dict[str, set[str]] = {}
    for _, container in containers():
        command = " ".join(container["args"]).replace("runs-gateway", "gateway")
        given = environment(container)
        assert given.keys() <= variables(kinds[command]), command
        secrets[command] = {name for name, value in given.items() if re.fullmatch(r"[a-z-]+\.[a-z-]+", value)}
    both = {"BROKER_URL", "AUTH_JWT_SECRET"}
    assert secrets == {
        "runs-service": {"RUNS_DATABASE_URL", "RUNS_LISTEN_DATABASE_URL", *both},
        "executor-service": {"EXECUTOR_DATABASE_URL", "OPENAI_API_KEY", *both},
        "gateway": set(),
        "runs-service migrate": {"RUNS_DATABASE_URL"},
        "executor-service migrate": {"EXECUTOR_DATABASE_URL"},
    }


def test_a_node_may_be_drained_and_a_zone_may_fail() -> None:
    budgets, deployments = of_kind("PodDisruptionBudget"), of_kind("Deployment")
    (scaler,) = of_kind("HorizontalPodAutoscaler").values()
    assert set(budgets) == set(deployments) == set(SERVICES)
    for name, deployment in deployments.items():
        mine = {"matchLabels": {"app.kubernetes.io/name": name}}
        spec = deployment["spec"]["template"]["spec"]
        assert budgets[name]["spec"]["selector"] == deployment["spec"]["selector"] == mine
        assert budgets[name]["spec"]["maxUnavailable"] == 1
        assert {one["topologyKey"] for one in spec["topologySpreadConstraints"]} == {
            "topology.kubernetes.io/zone",
            "kubernetes.io/hostname",
        }
        assert all(one["labelSelector"] == mine for one in spec["topologySpreadConstraints"])
        assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
        is_scaled = scaler["spec"]["scaleTargetRef"]["name"] == name
        # A number of replicas in the manifest would undo the scaler's at each apply.
        replicas = scaler["spec"]["minReplicas"] if is_scaled else deployment["spec"]["replicas"]
        assert replicas >= 2
        assert is_scaled is ("replicas" not in deployment["spec"])


def test_executors_are_scaled_by_a_metric_that_is_served() -> None:
    (scaler,) = of_kind("HorizontalPodAutoscaler").values()
    (metric,) = scaler["spec"]["metrics"]
    served = (ROOT / "runs_service/metrics.py").read_text()
    assert f'"{metric["external"]["metric"]["name"]}"' in served


def allowed(service: str) -> set[tuple[str, object]]:
    """Return who may come to the ports of a service, and where it may go: ("in" or "out", port)."""
    found = set()
    for policy in of_kind("NetworkPolicy").values():
        selector = policy["spec"]["podSelector"]
        names = {"app.kubernetes.io/name": service, "app.kubernetes.io/part-of": "playbook-runs"}
        if not selector.get("matchLabels", {}).items() <= names.items():
            continue
        if any(service not in one["values"] for one in selector.get("matchExpressions", [])):
            continue
        for direction, rules in (("in", "ingress"), ("out", "egress")):
            for rule in policy["spec"].get(rules, []):
                found |= {(direction, port["port"]) for port in rule["ports"]}
    return found


def test_a_pod_reaches_what_it_needs_only() -> None:
    nothing = of_kind("NetworkPolicy")["nothing"]["spec"]
    assert set(nothing["policyTypes"]) == {"Ingress", "Egress"}
    assert not {"ingress", "egress"} & nothing.keys()
    names, metrics, traces = ("out", 53), ("in", "metrics"), ("out", 4318)
    stores = {("out", 5432), ("out", 5671), ("out", 6379)}
    assert allowed("migrate") == {names, ("out", 5432), metrics}
    assert allowed("runs-service") == {names, metrics, traces, ("in", "grpc"), ("out", "grpc"), *stores}
    assert allowed("executor-service") == {names, metrics, traces, ("in", "grpc"), ("out", 443), *stores}
    assert allowed("gateway") == {names, metrics, traces, ("in", "https"), ("out", "grpc")}


def test_the_page_names_every_secret() -> None:
    page = (ROOT / "docs/kubernetes.md").read_text()
    keys = {value for _, container in containers() for value in environment(container).values()}
    used = {key for key in keys if re.fullmatch(r"[a-z-]+\.[a-z-]+", key)}
    mounted = {
        volume["secret"]["secretName"]
        for pod in pods().values()
        for volume in pod["spec"]["volumes"]
        if "secret" in volume
    }
    for secret, key in (value.split(".") for value in used):
        assert re.search(rf"^\| `{secret}` \|.*`{key}`", page, re.MULTILINE), f"{secret}: {key}"
    assert all(re.search(rf"^\| .*`{secret}`.* \|", page, re.MULTILINE) for secret in mounted)


def test_the_pooler_is_set_as_it_was_tried() -> None:
    page = (ROOT / "docs/performance.md").read_text()
    pooler = list(yaml.safe_load_all((FOLDER / "operators/postgres.yaml").read_text()))[1]["spec"]["pgbouncer"]
    assert f"pool_mode = {pooler['poolMode']}" in page
    for name in ("max_prepared_statements", "ignore_startup_parameters"):
        assert f"{name} = {pooler['parameters'][name]}" in page


def operators(file: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / "operators" / file).read_text()))


def test_the_pooler_has_a_name_in_the_certificate_and_leaves_connections_to_others() -> None:
    cluster, pooler = (one["spec"] for one in operators("postgres.yaml"))
    assert operators("postgres.yaml")[1]["metadata"]["name"] in cluster["certificates"]["serverAltDNSNames"]
    # A pool is for one role in one instance of PgBouncer, and there are two roles.
    pooled = 2 * pooler["instances"] * int(pooler["pgbouncer"]["parameters"]["default_pool_size"])
    assert pooled <= int(cluster["postgresql"]["parameters"]["max_connections"]) - 50


def test_no_operator_makes_the_secret_of_another() -> None:
    issuer, *_ = operators("certificates.yaml")
    cluster, _ = operators("postgres.yaml")
    made = {f"{cluster['metadata']['name']}-{what}" for what in ("ca", "server", "replication", "app", "superuser")}
    assert issuer["spec"]["ca"]["secretName"] not in made


def test_prometheus_knows_the_services_by_the_names_that_the_alerts_have() -> None:
    (monitor,) = operators("metrics.yaml")
    assert monitor["spec"]["jobLabel"] == "app.kubernetes.io/name"
    example = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    assert {job["job_name"] for job in example["scrape_configs"]} == set(SERVICES)


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl, which builds what kustomization.yaml names")
@pytest.mark.parametrize("folder", ["migration", "services"])
def test_kustomize_builds_them(folder: str) -> None:
    command = ["kubectl", "kustomize", str(FOLDER / folder)]
    built = list(yaml.safe_load_all(subprocess.run(command, check=True, capture_output=True).stdout))
    assert built
    for one in built:
        assert one["metadata"]["labels"]["app.kubernetes.io/part-of"] == "playbook-runs"
        assert one["kind"] == "Namespace" or one["metadata"]["namespace"] == "playbook-runs"
        for pod in [one["spec"]["template"]] if one["kind"] in ("Deployment", "Job") else []:
            assert pod["metadata"]["labels"]["app.kubernetes.io/part-of"] == "playbook-runs"
            assert all(re.fullmatch(r"playbook-runs:\d+\.\d+\.\d+", c["image"]) for c in pod["spec"]["containers"])


def probe(container: dict[str, Any], kind: str, places: dict[str, str]) -> int:
    """Run a container's probe as it stands there, with the `places` of here; return its exit code."""
    program, *arguments = container[f"{kind}Probe"]["exec"]["command"]
    assert program == "python"
    line = json.dumps(arguments)
    for there, here in places.items():
        line = line.replace(there, here)
    return subprocess.run([sys.executable, *json.loads(line)], check=False, capture_output=True).returncode


async def test_the_probes_tell_a_service_that_serves_one_without_its_schema_and_one_that_is_not_there(
    runs_forks: Forks, empty_database_url: str, runs_database_url: str, tmp_path: Path
) -> None:
    ((_, container),) = [one for one in containers() if one[1]["args"] == ["runs-service"]]
    authority = Authority(tmp_path / "tls")
    certificate, key = authority.issue("tls")
    certificate.rename(tmp_path / "tls/tls.crt")
    key.rename(tmp_path / "tls/tls.key")
    (tmp_path / "tls/ca.crt").write_bytes(authority.file.read_bytes())
    (port,) = free_ports(1)
    places = {"/tls/": f"{tmp_path}/tls/", "127.0.0.1:50051": f"{HOST}:{port}"}
    given = {
        name: value.replace("/tls/", f"{tmp_path}/tls/")
        for name, value in environment(container).items()
        if "TLS" in name
    }
    assert given.keys() == {"TLS_CERT_FILE", "TLS_KEY_FILE", "TLS_CLIENT_CA_FILE"}

    def probed() -> tuple[int, int]:
        return probe(container, "readiness", places), probe(container, "liveness", places)

    assert container["startupProbe"]["exec"] == container["livenessProbe"]["exec"]
    for url, expected in ((empty_database_url, (1, 0)), (runs_database_url, (0, 0))):
        env = {**given, "RUNS_DATABASE_URL": url, "RUNS_LISTEN": f"{HOST}:{port}", "AUTH_JWT_SECRET": SECRET}
        running = runs_forks.run(tmp_path / "log", env=env)
        await eventually(lambda: "serving at" in (tmp_path / "log").read_text())
        assert probed() == expected
        running.send_signal(signal.SIGTERM)
        assert running.wait(20) == 0
        assert "without TLS" not in (tmp_path / "log").read_text()
    assert probed() == (1, 1)
