"""P6: what applying a draft costs beyond writing its products."""

import re
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg
from playbooks.runs.v1.run_pb2 import Run, RunMeta
from psycopg import sql

from benchmarks.harness import (
    Absolute,
    Claim,
    Figure,
    Options,
    Results,
    alternate,
    checks,
    durable_stack,
    per_round,
    require,
    run_claim,
)
from benchmarks.loads.runs import Client
from devstack.postgres import binary
from devstack.stack import Stack
from executor_service.predicates import BLANK

PRODUCTS = 5_000

RATIO = "products/s of the run ÷ products/s of the statement"

CLAIM = Claim(
    id="P6",
    title="Apply",
    work=f"APPLY of {PRODUCTS:,} products, CreateRun sent to SUCCEEDED received; against one UPDATE … FROM unnest of "
    "the same rows by psql, sent to committed",
    figures=[Figure(RATIO, must=0.5, beyond=0.8)],
)

UPDATE = sql.SQL("""\\timing on
UPDATE executor.products p SET seo_title = draft.text, updated_at = now()
FROM unnest({ids}::text[], {texts}::text[]) AS draft (id, text)
WHERE p.project_id = {project} AND p.id = draft.id AND {blank};
""")
TIMING = re.compile(r"^Time: ([\d.]+) ms", re.MULTILINE)


class Shop:
    """A shop with a whole draft, which is written again and again."""

    def __init__(self, stack: Stack, client: Client, folder: Path, products: int) -> None:
        self._stack = stack
        self._client = client
        self.products = products
        self._project = client.make_shop("apply", products=products)
        preview = client.finished(client.create(self._project, meta=RunMeta(sample_size=1)))
        self._scope = {"scope_id": preview.scope_id, "rules_hash": preview.rules_hash}
        draft = client.finished(client.create(self._project, Run.DRAFT_GENERATE, **self._scope))
        require(draft.result.draft_generated == products, f"the draft has {draft.result}")
        query = "SELECT product_id, final_suggestion FROM executor.draft_items WHERE draft_id = %s ORDER BY product_id"
        self._draft = checks.rows(stack, query, [draft.draft_id])
        self._script = folder / "update.sql"
        self._script.write_text(self._update())
        self.working: list[float] = []  # seconds from RUNNING received to SUCCEEDED received
        self.process: list[float] = []  # seconds of psql from its start to its end
        self.applied = 0

    def reset(self) -> None:
        """Take the titles away again, and leave nothing to clean up for the next contender."""
        self._client.put_products(self._project, self.products)
        with psycopg.connect(self._stack.postgres.url(database=checks.DATABASE), autocommit=True) as connection:
            connection.execute("VACUUM executor.products, executor.run_item_blocks, executor.executions")
            connection.execute("CHECKPOINT")

    def apply(self, _number: int) -> float:
        """Apply the draft; return products/s as the client sees it."""
        timed = self._client.timed(self._project, Run.APPLY, **self._scope)
        self.working.append(timed.working)
        self.applied += 1
        require(timed.run.result.updated == self.products, f"APPLY's result is {timed.run.result}")
        items = "SELECT count(*) FROM executor.run_items WHERE run_id = %s AND status = 'UPDATED'"
        require(checks.scalar(self._stack, items, [timed.run.id]) == self.products, "not an item for each product")
        self._require_written()
        return self.products / timed.seconds

    def psql(self, _number: int) -> float:
        """Write the same by one statement; return products/s of that statement, by psql's clock."""
        started = time.perf_counter()
        done = subprocess.run(
            [binary("psql"), "-X", "-v", "ON_ERROR_STOP=1", "-f", self._script],
            env={"PGHOST": "127.0.0.1", **self._connection()},
            capture_output=True,
            text=True,
            check=False,
        )
        self.process.append(time.perf_counter() - started)
        require(f"UPDATE {self.products}\n" in done.stdout, f"psql printed {done.stdout} {done.stderr}")
        (milliseconds,) = TIMING.findall(done.stdout)
        self._require_written()
        return self.products / (float(milliseconds) / 1_000)

    def require_ended(self) -> None:
        """Fail unless all runs are there and SUCCEEDED."""
        checks.require_ended(self._stack, self._project, 2 + self.applied)

    def _require_written(self) -> None:
        """Fail unless every product has the text that the draft has for it."""
        query = "SELECT id, seo_title FROM executor.products WHERE project_id = %s ORDER BY id"
        require(checks.rows(self._stack, query, [self._project]) == self._draft, "products are not as drafted")

    def _update(self) -> str:
        return UPDATE.format(
            ids=[product_id for product_id, _ in self._draft],
            texts=[text for _, text in self._draft],
            project=self._project,
            blank=sql.SQL(BLANK["seo_title"]),  # the same condition, so the same index entries go
        ).as_string()

    def _connection(self) -> dict[str, str]:
        info = psycopg.conninfo.conninfo_to_dict(self._stack.postgres.url(database=checks.DATABASE))
        names = {"port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}
        return {variable: str(info[name]) for name, variable in names.items()}


def measure(options: Options) -> Results:
    """Alternate between the run and the statement, on the same rows of the same table."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        durable_stack(executor_env={"AI_PROVIDER": "offline"}) as stack,
        Client(stack) as client,
    ):
        shop = Shop(stack, client, Path(folder), options.size(PRODUCTS, 500))
        shop.reset()
        shop.apply(0)  # the executor's first one plans its statements
        shop.working.clear()
        found = alternate({"APPLY": shop.apply, "psql": shop.psql}, options.rounds, before=shop.reset)
        shop.require_ended()
    return Results(
        ratios={RATIO: per_round(found["APPLY"], found["psql"])},
        absolutes=[
            Absolute("APPLY", "products/s", found["APPLY"]),
            Absolute("UPDATE by psql", "products/s", found["psql"]),
            Absolute("APPLY, CreateRun sent to SUCCEEDED received", "ms", _milliseconds(shop.products, found["APPLY"])),
            Absolute("APPLY, RUNNING received to SUCCEEDED received", "ms", [1_000 * s for s in shop.working]),
            Absolute("UPDATE by psql, sent to committed", "ms", _milliseconds(shop.products, found["psql"])),
            Absolute("psql, the whole process", "ms", [1_000 * s for s in shop.process]),
        ],
        notes=[
            "The statement has the run's condition and sets what it sets; its time is psql's own, without the "
            "process's start and login. It commits, as the run does, to disk.",
            "The run also checks scope and draft, writes an item for each product, and is created, queued, claimed, "
            "reported and watched.",
            "Before each the titles are taken away through the API; then VACUUM and CHECKPOINT.",
        ],
    )


def _milliseconds(products: int, rates: list[float]) -> list[float]:
    return [1_000 * products / rate for rate in rates]


if __name__ == "__main__":
    run_claim(CLAIM, measure)
