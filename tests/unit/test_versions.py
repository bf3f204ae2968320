"""The version of the product stands in several files, and is the same in all."""

import json
import re
import tomllib
from pathlib import Path

from servicekit.postgres.revisions import known
from tests.support.released import Release

ROOT = Path(__file__).parents[2]


def project(file: str) -> dict[str, object]:
    found: dict[str, object] = tomllib.loads((ROOT / file).read_text())["project"]
    return found


VERSION = str(project("pyproject.toml")["version"])


def test_all_distributions_have_one_version() -> None:
    assert [project(f"{folder}/pyproject.toml")["version"] for folder in ("client", "gen")] == [VERSION, VERSION]
    assert f"playbook-runs-client=={VERSION}" in project("pyproject.toml")["dependencies"]  # type: ignore[operator]


def test_the_http_api_and_the_example_have_it_too() -> None:
    assert json.loads((ROOT / "gateway/openapi.json").read_text())["info"]["version"] == VERSION
    for file in ("package.json", "package-lock.json"):
        assert json.loads((ROOT / "examples/node" / file).read_text())["version"] == VERSION


def test_the_newest_heading_of_the_changelog_is_it() -> None:
    headings = re.findall(r"^## \[(\S+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert headings[1:2] == [VERSION] or (VERSION == "0.1.0" and not headings[1:]), "see docs/releasing.md"


def test_the_last_release_is_not_newer_and_its_revisions_are_there() -> None:
    def numbers(version: str) -> list[int]:
        return [int(part) for part in version.split(".")]

    last = Release.last()
    assert numbers(last.version) <= numbers(VERSION)
    assert re.fullmatch(r"[0-9a-f]{40}", last.commit)
    assert set(last.schemas) == {"runs", "executor"}
    for service, revision in last.schemas.items():
        assert revision in known(ROOT / f"{service}_service/migrations")


def test_the_protos_that_ours_are_compared_with_are_those_of_the_last_release(tmp_path: Path) -> None:
    Release.last().unpack(tmp_path)
    released = (tmp_path / "gen/playbook-runs.binpb").read_bytes()
    assert (ROOT / "protos/released.binpb").read_bytes() == released, "docs/releasing.md, the last step"


def test_the_manifests_name_its_image() -> None:
    for folder in ("migration", "services"):
        text = (ROOT / f"deploy/kubernetes/{folder}/kustomization.yaml").read_text()
        assert re.findall(r'^    newTag: "(.*)"$', text, re.MULTILINE) == [VERSION]
    assert re.findall(r"playbook-runs:(\d\S*)", (ROOT / "docs/kubernetes.md").read_text()) == [VERSION]
