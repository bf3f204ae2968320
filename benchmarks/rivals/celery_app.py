"""A Celery application with a task that does nothing: `python -m celery -A benchmarks.rivals.celery_app worker`."""

import os

from celery import Celery
from celery.signals import worker_ready

URL = os.environ["BENCH_BROKER_URL"]

app = Celery("bench", broker=URL, backend=URL)
# What the user guide's chapter Optimizing advises for many short tasks. The rest is as it comes.
app.conf.worker_prefetch_multiplier = 128


@worker_ready.connect
def _tell(**_: object) -> None:
    print("ready", flush=True)


@app.task
def noop() -> None:
    """Do nothing."""
