"""A DBOS application with a workflow that does nothing: `python -m benchmarks.rivals.dbos_app`."""

import os
import threading

from dbos import DBOS

QUEUE = "bench"
WORKFLOW = "noop"
VERSION = "1"


@DBOS.workflow(name=WORKFLOW)
async def noop() -> None:
    """Do nothing. A coroutine, as DBOS runs them by the thousand without a thread for each."""


def main() -> None:
    """Work until killed. The queue has no limit: each poll, once a second, would start at most that many workflows."""
    DBOS(
        config={
            "name": "bench",
            "application_version": VERSION,
            "system_database_url": os.environ["BENCH_DATABASE_URL"],
            "log_level": "WARNING",
        }
    )
    DBOS.launch()
    DBOS.register_queue(QUEUE)
    print("ready", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
