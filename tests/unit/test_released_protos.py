"""`make check` compares the protos with the last release's: what that finds, and that it has them."""

import re
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorSet

ROOT = Path(__file__).parents[2]
RELEASED = ROOT / "protos/released.binpb"


def complaints(descriptors: FileDescriptorSet, folder: Path) -> str:
    """Return what the check says of changed descriptors, by the command that the Makefile has."""
    changed = folder / "changed.binpb"
    changed.write_bytes(descriptors.SerializeToString())
    (line,) = re.findall(r"^\t\$\(BIN\)/buf (breaking .*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    arguments = line.replace("$(DESCRIPTORS)", str(changed)).split()
    command = [str(Path(sysconfig.get_path("scripts")) / "buf"), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == bool(done.stdout), done.stderr
    return done.stdout


def message(descriptors: FileDescriptorSet, name: str) -> DescriptorProto:
    return next(one for file in descriptors.file for one in file.message_type if one.name == name)


def without_a_field(descriptors: FileDescriptorSet) -> None:
    del message(descriptors, "Run").field[3]


def with_another_type(descriptors: FileDescriptorSet) -> None:
    fields = message(descriptors, "PutProductsResponse").field
    next(one for one in fields if one.name == "created").type = FieldDescriptorProto.TYPE_INT32


def with_another_name(descriptors: FileDescriptorSet) -> None:
    message(descriptors, "Run").field[0].name = "identifier"


def without_an_enum_value(descriptors: FileDescriptorSet) -> None:
    statuses = next(one for one in message(descriptors, "Run").enum_type if one.name == "Status")
    del statuses.value[-1]


def without_a_method(descriptors: FileDescriptorSet) -> None:
    services = [one for file in descriptors.file for one in file.service if one.name == "RunsService"]
    del services[0].method[0]


def test_a_new_field_is_no_complaint(tmp_path: Path) -> None:
    descriptors = FileDescriptorSet.FromString(RELEASED.read_bytes())
    message(descriptors, "Run").field.add(name="new", number=1_000, type=FieldDescriptorProto.TYPE_STRING, label=1)
    assert not complaints(descriptors, tmp_path)


@pytest.mark.parametrize(
    "change", [without_a_field, with_another_type, with_another_name, without_an_enum_value, without_a_method]
)
def test_what_an_older_client_cannot_read_is_one(change: Callable[[FileDescriptorSet], None], tmp_path: Path) -> None:
    descriptors = FileDescriptorSet.FromString(RELEASED.read_bytes())
    change(descriptors)
    assert complaints(descriptors, tmp_path)
