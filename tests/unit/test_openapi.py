"""The description of the API: valid, whole, and of the protos."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from google.api import annotations_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from openapi_spec_validator import OpenAPIV31SpecValidator
from playbooks.runs.v1.run_pb2 import Run, RunMeta, RunProgress

from gateway.app import EXECUTOR, OPENAPI, RUNS
from gateway.encoder import Encoder
from gateway.routes import Routes

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def document() -> Any:
    return json.loads(OPENAPI.read_text())


def test_it_is_valid(document: Any) -> None:
    OpenAPIV31SpecValidator(document).validate()


def test_it_has_every_route(document: Any) -> None:
    for route in Routes([*RUNS, *EXECUTOR]).all:
        operation = document["paths"][route.template.text][route.method.lower()]
        assert operation["description"], route
        assert "default" in operation["responses"]


def test_requests_have_the_limits_of_the_protos(document: Any) -> None:
    create = document["paths"]["/api/projects/{project_id}/automation-playbooks/{playbook_id}/runs"]["post"]
    content = create["requestBody"]["content"]["application/json"]["schema"]
    assert content["required"] == ["runType"]
    assert content["properties"]["runType"]["enum"] == ["PREVIEW_GENERATE", "DRAFT_GENERATE", "APPLY"]
    assert "Required for DRAFT_GENERATE" in content["properties"]["scopeId"]["description"]
    size = document["components"]["schemas"]["RunMetaInput"]["properties"]["sampleSize"]
    assert (size["minimum"], size["maximum"]) == (1, 50)
    (playbook,) = [one for one in create["parameters"] if one["name"] == "playbook_id"]
    assert playbook["schema"]["enum"] == ["missing_seo_title", "missing_seo_description"]
    assert set(create["responses"]) == {"200", "201", "default"}


@pytest.mark.parametrize("run", [Run(), Run(id="r", meta=RunMeta(sample_size=1), progress=RunProgress(total=3))])
def test_answers_are_as_it_says(document: Any, run: Run) -> None:
    schema = {"$ref": "#/components/schemas/Run", "components": document["components"]}
    jsonschema.validate(Encoder().value(run), schema)


def test_envoys_descriptors_have_the_routes_and_no_response_body(tmp_path: Path) -> None:
    tool = [sys.executable, str(ROOT / "tools" / "gen.py"), "--envoy", str(tmp_path / "set.binpb")]
    subprocess.run(tool, check=True)
    files = FileDescriptorSet.FromString((tmp_path / "set.binpb").read_bytes()).file
    methods = [method for file in files for service in file.service for method in service.method]
    rules = [method.options.Extensions[annotations_pb2.http] for method in methods]
    assert sum(bool(rule.WhichOneof("pattern")) for rule in rules) == len(
        {r.rpc for r in Routes([*RUNS, *EXECUTOR]).all}
    )
    assert not any(rule.response_body for rule in rules)
