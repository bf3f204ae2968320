"""Generate gen/ from protos/, offline.

Where the imports come from: google/protobuf is in the wheel grpcio-tools, google/api in
googleapis-common-protos, and buf/validate is the descriptor that protovalidate embeds.

    python tools/gen.py            write gen/ and gateway/openapi.json
    python tools/gen.py --check    exit 1 when they are not what protos/ generate
    python tools/gen.py --envoy F  write the descriptors into F, without response_body: Envoy's transcoder refuses it

gen/playbook-runs.binpb is the descriptor set, for buf and for other languages: every proto, its imports, the messages
that errors carry, and their comments.
"""

import argparse
import filecmp
import importlib.resources
import json
import os
import shutil
import sys
import tempfile
import tomllib
from importlib.metadata import distribution
from pathlib import Path

from google.protobuf import descriptor_pb2
from grpc_tools import protoc
from protovalidate._gen.buf.validate import validate_pb  # private, so protovalidate is pinned

ROOT = Path(__file__).resolve().parent.parent
GENERATED = ("playbooks", "buf")  # the generated folders of gen/; gen/pyproject.toml is kept by hand
DESCRIPTORS = "playbook-runs.binpb"
ERRORS = ("google/rpc/status.proto", "google/rpc/error_details.proto")  # no proto imports what errors carry
OPENAPI = ROOT / "gateway" / "openapi.json"


def run_protoc(*options: str, extra: tuple[str, ...] = ()) -> None:
    """Run protoc over protos/ and `extra` files. Raises SystemExit with its exit code when it fails."""
    protos = ROOT / "protos"
    well_known = importlib.resources.files("grpc_tools") / "_proto"
    google_api = distribution("googleapis-common-protos").locate_file("")
    buf_validate = descriptor_pb2.FileDescriptorSet()
    buf_validate.file.add().ParseFromString(validate_pb.desc().proto.to_binary())
    with tempfile.NamedTemporaryFile(suffix=".binpb") as descriptors:
        descriptors.write(buf_validate.SerializeToString())
        descriptors.flush()
        includes = [f"-I{protos}", f"-I{well_known}", f"-I{google_api}", f"--descriptor_set_in={descriptors.name}"]
        files = sorted(str(proto.relative_to(protos)) for proto in protos.rglob("*.proto"))
        code = protoc.main(["protoc", *includes, *options, *files, *extra])
    if code:
        raise SystemExit(code)


def generate(target: Path) -> None:
    """Write the Python, gRPC and type stub modules of every proto into `target`."""
    # protoc looks for its plugins (protoc-gen-mypy) on PATH; they are beside this interpreter.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    run_protoc(
        f"--python_out={target}",
        f"--grpc_python_out={target}",
        f"--mypy_out=quiet:{target}",
        f"--mypy_grpc_out=quiet:{target}",
        extra=("buf/validate/validate.proto",),
    )
    for module in target.rglob("*_pb2.py"):
        for package in module.relative_to(target).parents[:-1]:
            (target / package / "__init__.py").touch()
            (target / package / "py.typed").touch()


def write_descriptors(target: Path) -> None:
    """Write the descriptors of every proto, of what it imports and of ERRORS, with comments, into the file `target`."""
    run_protoc("--include_imports", "--include_source_info", f"--descriptor_set_out={target}", extra=ERRORS)


def write_envoys_descriptors(target: Path) -> None:
    """Write the descriptors as `write_descriptors` does, with routes that answer with the whole response."""
    from google.api import annotations_pb2

    write_descriptors(target)
    files = descriptor_pb2.FileDescriptorSet.FromString(target.read_bytes())
    for method in (method for file in files.file for service in file.service for method in service.method):
        if method.options.HasExtension(annotations_pb2.http):
            rule = method.options.Extensions[annotations_pb2.http]
            for binding in (rule, *rule.additional_bindings):
                binding.ClearField("response_body")
    target.write_bytes(files.SerializeToString())


def openapi() -> str:
    """Return the description of the HTTP API, out of what is in gen/."""
    sys.path[:0] = [str(ROOT), str(ROOT / "gen")]
    from gateway.app import EXECUTOR, RUNS
    from gateway.openapi.comments import Comments
    from gateway.openapi.document import Document
    from gateway.routes import Routes

    comments = Comments((ROOT / "gen" / DESCRIPTORS).read_bytes())
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    document = Document(Routes([*RUNS, *EXECUTOR]), comments).build(version)
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def differences(left: Path, right: Path) -> list[str]:
    """Relative paths of the files that differ between two folders, or are in one only."""
    names = {p.relative_to(base) for base in (left, right) for p in base.rglob("*") if p.is_file()}
    names = {name for name in names if "__pycache__" not in name.parts}
    return sorted(
        str(name)
        for name in names
        if not (left / name).is_file()
        or not (right / name).is_file()
        or not filecmp.cmp(left / name, right / name, shallow=False)
    )


def main() -> int:
    """Do what the arguments say; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 when gen/ is not up to date")
    parser.add_argument("--envoy", metavar="FILE", help="write a descriptor set for Envoy instead")
    arguments = parser.parse_args()
    if arguments.envoy:
        write_envoys_descriptors(Path(arguments.envoy))
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch)
        generate(fresh)
        write_descriptors(fresh / DESCRIPTORS)
        if arguments.check:
            drift = [f"gen/{top}/{name}" for top in GENERATED for name in differences(fresh / top, ROOT / "gen" / top)]
            kept = ROOT / "gen" / DESCRIPTORS
            if not kept.is_file() or not filecmp.cmp(fresh / DESCRIPTORS, kept, shallow=False):
                drift.append(f"gen/{DESCRIPTORS}")
            if not OPENAPI.is_file() or OPENAPI.read_text() != openapi():
                drift.append(str(OPENAPI.relative_to(ROOT)))
            if drift:
                print("These are not what protos/ generate. Run: make gen\n  " + "\n  ".join(drift), file=sys.stderr)
            return 1 if drift else 0
        for top in GENERATED:
            shutil.rmtree(ROOT / "gen" / top, ignore_errors=True)
            shutil.copytree(fresh / top, ROOT / "gen" / top)
        shutil.copy(fresh / DESCRIPTORS, ROOT / "gen" / DESCRIPTORS)
    OPENAPI.write_text(openapi())
    return 0


if __name__ == "__main__":
    sys.exit(main())
