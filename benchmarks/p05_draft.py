"""P5: what a draft costs beyond its requests to the AI provider."""

from collections.abc import Mapping

from playbooks.runs.v1.run_pb2 import Run, RunMeta

from benchmarks.harness import (
    Absolute,
    Claim,
    Figure,
    Options,
    Results,
    alternate,
    checks,
    load,
    per_round,
    relieve,
    require,
    run_claim,
)
from benchmarks.loads.processes import cpu_seconds
from benchmarks.loads.provider import Provider, stack_with_provider
from benchmarks.loads.runs import Client
from devstack.stack import Stack

PRODUCTS, BATCH, AT_ONCE = 5_000, 10, 16
DELAY = 0.05  # seconds a request takes at the provider

DRAFT, ALONE = "draft", "AI client alone"

CLAIM = Claim(
    id="P5",
    title="Main job",
    work=f"DRAFT_GENERATE for {PRODUCTS:,} products, a provider that takes {DELAY * 1000:.0f} ms a request, {AT_ONCE} "
    f"requests at once, {BATCH} products a request. The run reads its products, stores suggestions when they arrive, "
    "reports progress and writes the draft. Against the same requests by the executor's AI client alone, in a process "
    f"that does nothing else; beside it the ideal, requests × {DELAY * 1000:.0f} ms ÷ {AT_ONCE}",
    figures=[
        Figure("the AI client's time alone ÷ the draft's", must=0.93, beyond=0.98),
        Figure("ideal time ÷ the draft's"),
        Figure("ideal time ÷ the AI client's alone"),
    ],
)


class Drafts:
    """Rounds of drafts, and of the same requests without a run."""

    def __init__(self, stack: Stack, client: Client, provider: Provider, products: int) -> None:
        self._stack = stack
        self._client = client
        self._provider = provider
        self.products = products
        self.requests = (products - BATCH) // BATCH  # the preview has asked for the first products
        self.cpu: dict[str, list[float]] = {name: [] for name in ("executor", "provider", "runs_service", "PostgreSQL")}

    def draft(self, number: int) -> float:
        """Draft a shop whose products are new; return the seconds it took."""
        project = self._client.make_shop(f"draft-{number}", products=self.products)
        preview = self._client.finished(self._client.create(project, meta=RunMeta(sample_size=BATCH)))
        relieve(self._stack)
        self._provider.reset()
        before = self._cpu()
        timed = self._client.timed(
            project,
            Run.DRAFT_GENERATE,
            scope_id=preview.scope_id,
            rules_hash=preview.rules_hash,
        )
        after = self._cpu()
        for name, values in self.cpu.items():
            values.append(after[name] - before[name])
        self._require_whole(timed.run)
        self._require_requests(self.requests)
        return timed.seconds

    def alone(self) -> float:
        """Make the requests of a draft without a run; return the seconds they took."""
        rows = checks.rows(
            self._stack,
            "SELECT id, title, description FROM executor.products WHERE starts_with(project_id, %s) "
            "ORDER BY id OFFSET %s",
            ["draft-0-", BATCH],
        )
        settings = self._provider.settings
        self._provider.reset()
        done = load(
            "benchmarks.loads.ask",
            model=settings["AI_MODEL"],
            api_key=settings["OPENAI_API_KEY"],
            base_url=settings["OPENAI_BASE_URL"],
            products=[list(row) for row in rows],
            concurrency=AT_ONCE,
            batch=BATCH,
        )
        self._require_requests(self.requests + 1)  # the first one, untimed, imports and connects
        return float(done["seconds"])

    @property
    def ideal(self) -> float:
        """The seconds that the requests of a draft take at best."""
        return self.requests * DELAY / AT_ONCE

    def _require_requests(self, expected: int) -> None:
        """Fail unless the provider has answered so many requests since the reset, AT_ONCE at a time."""
        stats = self._provider.stats()
        require(stats["requests"] == expected, f"{expected} requests were due: {stats['requests']}")
        require(stats["statuses"] == {"200": stats["requests"]}, f"the provider refused requests: {stats['statuses']}")
        require(stats["max_in_flight"] == AT_ONCE, f"{stats['max_in_flight']} requests at once, not {AT_ONCE}")

    def _require_whole(self, run: Run) -> None:
        """Fail unless the draft has a suggestion for each product, and each was asked for once."""
        require(run.result.draft_generated == self.products, f"the draft's result is {run.result}")
        found = checks.rows(
            self._stack,
            "SELECT d.status, count(*) FROM executor.draft_items i JOIN executor.drafts d ON d.id = i.draft_id "
            "WHERE d.id = %s AND i.final_suggestion LIKE 'SEO title for %%' GROUP BY 1",
            [run.draft_id],
        )
        require(found == [("READY", self.products)], f"{self.products} suggestions were due: {found}")
        asked = self._provider.stats()["asked"]
        missing = self.products - BATCH  # the preview had asked for the others
        require(len(asked) == sum(asked.values()) == missing, f"{missing} products should be asked for once each")

    def _cpu(self) -> Mapping[str, float]:
        return {
            "executor": cpu_seconds(self._stack.executors[0].pid),
            "provider": cpu_seconds(self._provider.pid),
            "runs_service": cpu_seconds(self._stack.runs[0].pid),
            "PostgreSQL": cpu_seconds(self._stack.postgres.pid),
        }


def measure(options: Options) -> Results:
    """Alternate between drafts and the AI client alone."""
    settings = {"AI_CONCURRENCY": str(AT_ONCE), "AI_BATCH_SIZE": str(BATCH)}
    with stack_with_provider(delay=DELAY, **settings) as (stack, provider), Client(stack) as client:
        drafts = Drafts(stack, client, provider, options.size(PRODUCTS, 1_000))
        drafts.draft(0)  # the executor's first draft imports and connects
        for values in drafts.cpu.values():
            values.clear()
        seconds = alternate(
            {DRAFT: lambda number: drafts.draft(number + 1), ALONE: lambda _: drafts.alone()}, options.rounds
        )
    against_alone, draft_ideal, alone_ideal = CLAIM.figures
    return Results(
        ratios={
            against_alone.name: per_round(seconds[ALONE], seconds[DRAFT]),
            draft_ideal.name: [drafts.ideal / value for value in seconds[DRAFT]],
            alone_ideal.name: [drafts.ideal / value for value in seconds[ALONE]],
        },
        absolutes=[
            Absolute("draft, CreateRun sent to SUCCEEDED received", "s", seconds[DRAFT]),
            Absolute("AI client alone, the same requests", "s", seconds[ALONE]),
            *(Absolute(f"{name}, during the draft", "CPU s", values) for name, values in drafts.cpu.items()),
        ],
        notes=[
            f"Each round drafts a new shop of {drafts.products:,} products; for {BATCH} the preview had asked.",
            "The provider is a process of its own on the same two cores: its CPU time is listed.",
            "Every product was asked for once, and the draft has a suggestion for each.",
            f"Each draft makes {drafts.requests} requests. The AI client alone makes as many, for one of the shops.",
        ],
    )


if __name__ == "__main__":
    run_claim(CLAIM, measure)
