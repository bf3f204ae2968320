"""P10: the cost of idle services."""

import re
import time
from collections import Counter
from pathlib import Path

import psutil
import psycopg

from benchmarks.harness import Absolute, Claim, Figure, Options, Results, checks, durable_stack, require, run_claim
from benchmarks.loads.runs import Client
from devstack.ports import HOST, free_ports
from devstack.stack import Stack

SECONDS = 60.0
SETTLE = 15.0  # seconds after the last run until every poll has reached its longest pause

CLAIM = Claim(
    id="P10",
    title="Idle cost",
    work="One runs_service and one executor_service over a broker, after they have worked; no runs, metrics on, 60 s",
    figures=[
        Figure("CPU seconds a minute, both services", must=0.9, beyond=0.45, better="lower"),
        Figure("SQL statements a minute", must=120, beyond=60, better="lower"),
    ],
)

# The beginning of a logged statement, and the lines it goes on over.
STATEMENT = re.compile(r"^app=(\S*) LOG:  (?:statement|execute [^:]*): (.*(?:\n\t.*)*)", re.MULTILINE)


def measure(options: Options) -> Results:
    """Let a stack work, then leave it alone and look."""
    seconds = SECONDS if not options.quick else 10.0
    # With metrics, which measure in the database what waits.
    runs_port, executor_port = free_ports(2)
    with durable_stack(
        runs_env={"METRICS_LISTEN": f"{HOST}:{runs_port}"}, executor_env={"METRICS_LISTEN": f"{HOST}:{executor_port}"}
    ) as stack:
        with Client(stack) as client:
            project = client.make_shop("idle", products=3)
            run = client.finished(client.create(project))
        require(run.result.draft_generated == 3, f"the warm-up run gave {run.result}")
        _log_statements(stack)
        time.sleep(SETTLE)
        log = stack.postgres.log
        before, read_from, started = _cpu(stack), log.stat().st_size, time.monotonic()
        time.sleep(seconds)
        elapsed, after = time.monotonic() - started, _cpu(stack)
        statements = _statements(log, read_from)
        checks.require_ended(stack, project, 1)
    minute = 60.0 / elapsed
    used = {name: (after[name] - before[name]) * minute for name in after}
    require(min(used.values()) > 0, f"no process does nothing at all for {elapsed:.0f} s: {used}")
    require({"runs-service", "executor-service"} <= {app for app, _ in statements}, f"not in the log: {statements}")
    return Results(
        ratios={
            CLAIM.figures[0].name: [used["runs-service"] + used["executor-service"]],
            CLAIM.figures[1].name: [sum(statements.values()) * minute],
        },
        absolutes=[Absolute(name, "CPU s a minute", [value]) for name, value in used.items()],
        notes=[
            f"One stretch of {elapsed:.0f} s, {SETTLE:.0f} s after the last run. CPU time of all threads, from /proc.",
            "Statements are those in PostgreSQL's log (log_statement = all), BEGIN and COMMIT included.",
            *(f"{count * minute:.0f} a minute, {app}: {what}" for (app, what), count in statements.most_common()),
        ],
    )


def _cpu(stack: Stack) -> dict[str, float]:
    """Return the CPU seconds so far of the services, and of Valkey, which they keep busy."""
    processes = {process.name: psutil.Process(process.pid) for process in (*stack.runs, *stack.executors)}
    if stack.valkey:
        processes["valkey"] = psutil.Process(stack.valkey.pid)
    return {name: sum(map(_of_thread, Path(f"/proc/{p.pid}/task").iterdir())) for name, p in processes.items()}


def _of_thread(task: Path) -> float:
    """Return the CPU seconds of a thread. Exact, where /proc/PID/stat counts in steps of 10 ms."""
    return int((task / "schedstat").read_text().split()[0]) / 1e9


def _log_statements(stack: Stack) -> None:
    with psycopg.connect(stack.postgres.url(), autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET log_line_prefix = 'app=%a '")
        connection.execute("ALTER SYSTEM SET log_statement = 'all'")
        connection.execute("SELECT pg_reload_conf()")


def _statements(log: Path, read_from: int) -> Counter[tuple[str, str]]:
    """Return how often each statement was logged, by the name its connection goes by and how it begins."""
    with log.open("rb") as lines:
        lines.seek(read_from)
        text = lines.read().decode()
    return Counter((app, " ".join(statement.split())[:70]) for app, statement in STATEMENT.findall(text))


if __name__ == "__main__":
    run_claim(CLAIM, measure)
