"""What rows of the schema `runs` hold, as statements and the tables of models.py both say it.

Not in models.py: SQLAlchemy, which only a migration needs, would take a quarter of the service's start.
"""

from playbooks.runs.v1.run_pb2 import Run

PLAYBOOKS = ("missing_seo_title", "missing_seo_description")
RUN_TYPES = tuple(Run.Type.keys()[1:])  # without TYPE_UNSPECIFIED
STATUSES = tuple(Run.Status.keys()[1:])
# The predicates of the partial indexes; statements repeat them word for word, or the indexes are not used.
ACTIVE = "status IN ('QUEUED', 'RUNNING')"
# Rows that occupy their key: the idempotency promise is this index, never a read before a write.
HOLDS_KEY = f"{ACTIVE} OR (status = 'SUCCEEDED' AND NOT frees_on_success)"
STOP_PENDING = "stop_pending"
UNDISPATCHED = "status = 'QUEUED' AND dispatched_at IS NULL"
# What is counted of the runs of a project, a day and a type; those after the first two are AiUsage's.
USAGE_COUNTS = (
    "runs",
    "ai_runs",
    "requests",
    "suggestions",
    "reused",
    "input_tokens",
    "cached_input_tokens",
    "output_tokens",
)
