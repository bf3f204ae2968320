"""The description of the API: valid, whole, and of the protos."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
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
