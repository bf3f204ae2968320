"""Check deploy/kubernetes against the schemas of Kubernetes, offline and strictly: an unknown field is an error.

    python tools/manifests.py

What an operator's own kinds may have, no schema here says; their kinds and versions are checked by name.
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import yaml

MANIFESTS = Path(__file__).resolve().parent.parent / "deploy" / "kubernetes"
VERSION: Final = "1.37.0"
CUSTOM: Final[Mapping[str, str]] = {  # of operators, with the versions of their API
    "Certificate": "cert-manager.io/v1",
    "Issuer": "cert-manager.io/v1",
    "Cluster": "postgresql.cnpg.io/v1",
    "Database": "postgresql.cnpg.io/v1",
    "Pooler": "postgresql.cnpg.io/v1",
    "RabbitmqCluster": "rabbitmq.com/v1beta1",
    "PodMonitor": "monitoring.coreos.com/v1",
}


def problems(folder: Path) -> Iterator[str]:
    """Yield what is wrong with the manifests in `folder` and below it."""
    for file in sorted(folder.rglob("*.yaml")):
        if file.name == "kustomization.yaml":
            yield from _problems_of_kustomization(file)
            continue
        for document in yaml.safe_load_all(file.read_text()):
            name = f"{file.relative_to(folder)}: {document.get('kind')} {document.get('metadata', {}).get('name')}"
            yield from (f"{name}: {problem}" for problem in _problems_of(document))


def _problems_of(document: Mapping[str, Any]) -> Iterator[str]:
    if expected := CUSTOM.get(str(document.get("kind"))):
        if document["apiVersion"] != expected:
            yield f"its apiVersion is not {expected}"
        return
    try:
        kubernetes_validate.validate(document, VERSION, strict=True)
    except kubernetes_validate.SchemaNotFoundError:
        yield f"Kubernetes {VERSION} has no such kind"
    except kubernetes_validate.ValidationError as error:
        yield f"{'.'.join(map(str, error.path))}: {error.message}"


def _problems_of_kustomization(file: Path) -> Iterator[str]:
    named = set(yaml.safe_load(file.read_text())["resources"])
    there = {other.name for other in file.parent.glob("*.yaml")} - {file.name}
    if named != there:
        yield f"{file}: names {sorted(named - there)}, which are not there, and not {sorted(there - named)}"


def main() -> int:
    """Print what is wrong; return the exit code."""
    found = list(problems(MANIFESTS))
    print("\n".join(found) or f"The manifests are those of Kubernetes {VERSION}.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
