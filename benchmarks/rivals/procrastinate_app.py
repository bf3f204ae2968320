"""A procrastinate application with a task that does nothing."""

import os

from procrastinate import App, PsycopgConnector

POOL = 20  # connections

app = App(connector=PsycopgConnector(conninfo=os.environ["BENCH_DATABASE_URL"], min_size=4, max_size=POOL))


@app.task
async def noop() -> None:
    """Do nothing. A coroutine: that is what procrastinate runs many of at the same time."""
