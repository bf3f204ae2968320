// One run: where it stands, how it got there, what came of it.

import { cancelRuns, retryRuns } from "./actions.js";
import { DraftTable } from "./draft_table.js";
import { fill, h, refill } from "./element.js";
import { ItemsTable } from "./items_table.js";
import { copyButton, emptyState, linkTo, problemBox, reasonOf, statusChip } from "./parts.js";
import { factsOf } from "./run_facts.js";
import { failureOf } from "./run_failure.js";
import { progressOf } from "./run_row.js";
import { Timeline } from "./timeline.js";
import { durations } from "./times.js";
import { hasEnded, isRetryable, playbookName, roleFor, TYPES } from "./words.js";

export function openRun(context) {
  const view = new RunView(context);
  view.start();
  return view;
}

class RunView {
  title = "Run";
  #context;
  #id;
  #run = null;
  #retry = null;
  #title = h("div", { class: "run-title" });
  #actions = h("div", { class: "run-actions" });
  #error = h("div");
  #facts = h("div");
  #timeline = new Timeline();
  #results = h("div", { class: "results" });
  #json = h("pre", { tabindex: 0, "aria-label": "The run as JSON" });
  #table = null;
  #hasResults = "";

  constructor(context) {
    this.#context = context;
    this.#id = context.place.run.toLowerCase();
    this.element = h("section", {}, h("h1", {}, "Run"), h("p", { class: "quiet loading", role: "status" }, "Loading…"));
  }

  async start() {
    await this.#load();
    if (this.#run) this.#watch();
  }

  tick() {
    const shown = this.element.querySelector(".run-duration");
    if (shown && this.#run && !hasEnded(this.#run)) shown.textContent = durations(this.#run, this.#context.api.now());
  }

  close() {
    this.#table?.close();
    this.#id = "";
  }

  async #load() {
    const { api, project } = this.#context;
    const id = this.#id;
    try {
      const run = await api.get(project, `runs/${encodeURIComponent(id)}`);
      if (id !== this.#id) return;
      this.#frame();
      this.#take(run);
    } catch (error) {
      if (id !== this.#id) return;
      fill(this.element, h("h1", {}, "Run"), this.#failure(error));
    }
  }

  #failure(error) {
    const { project } = this.#context;
    const isUnknown = error.status === 404 || error.status === 400;
    if (!isUnknown) return problemBox(error, () => this.start());
    return emptyState(
      "There is no such run here",
      `The project ${project} has no run ${this.#id}. It may belong to another project, or have been deleted.`,
      linkTo({ project, view: "runs" }, { class: "button" }, "All runs"),
    );
  }

  #frame() {
    fill(
      this.element,
      h(
        "p",
        { class: "crumb" },
        linkTo(this.#context.list, {}, "Runs"),
        h("span", { class: "quiet", "aria-hidden": "true" }, " / "),
        h("code", { class: "quiet" }, this.#id.slice(-8)),
      ),
      h("div", { class: "title-row" }, this.#title, this.#actions),
      this.#error,
      h(
        "div",
        { class: "run-columns" },
        h(
          "section",
          { class: "sheet padded", "aria-labelledby": "h-facts" },
          h("h2", { id: "h-facts" }, "Details"),
          this.#facts,
        ),
        h(
          "section",
          { class: "sheet padded", "aria-labelledby": "h-timeline" },
          h("h2", { id: "h-timeline" }, "Timeline"),
          this.#timeline.element,
        ),
      ),
      this.#results,
      h(
        "details",
        { class: "sheet padded raw" },
        h("summary", {}, "Raw JSON"),
        h("div", { class: "raw-actions" }, copyButton(() => this.#json.textContent, "Copy the JSON")),
        this.#json,
      ),
    );
  }

  // The history from its beginning, and then what changes.
  #watch() {
    const { live, project } = this.#context;
    live.follow({
      project,
      path: `runs/${this.#id}:watch`,
      query: { afterSequence: 0 },
      take: ({ data }) => {
        this.#timeline.add(data);
        this.#take(data);
      },
      restarted: () => this.#timeline.clear({ isWhole: false }),
      refused: (problem) => this.#results.prepend(problemBox(problem)),
      isOver: () => this.#run !== null && hasEnded(this.#run),
    });
  }

  #take(run) {
    if (this.#run && run.sequence < this.#run.sequence) return;
    const hasJustEnded = !this.#run || (hasEnded(run) && !hasEnded(this.#run));
    this.#run = run;
    this.#show();
    if (hasJustEnded) this.#findRetry();
  }

  #show() {
    const run = this.#run;
    const { project, api } = this.#context;
    document.title = `${TYPES[run.runType]}: ${run.status.toLowerCase()} · Playbook runs`;
    refill(this.#title, `${run.status} ${run.sequence}`, () => [
      h("h1", {}, `${TYPES[run.runType] ?? run.runType} · ${playbookName(run.playbookId)}`),
      statusChip(run.status),
      run.errorCode ? null : h("span", { class: "run-progress" }, progressOf(run)),
    ]);
    // What can have the focus stays while only the progress goes on.
    const { status, attempt, scopeId, rulesHash, draftId, errorCode, startedAt, aiUsed } = run;
    const key = JSON.stringify([status, attempt, scopeId, rulesHash, draftId, startedAt, aiUsed, this.#retry?.id]);
    refill(this.#actions, key, () => this.#actionsOf(run));
    refill(this.#error, errorCode, () => (errorCode ? failureOf(run, project) : null));
    refill(this.#facts, key, () => factsOf(run, { project, retry: this.#retry, now: api.now() }));
    this.#json.textContent = JSON.stringify(run, null, 2);
    this.#showResults(run);
  }

  #actionsOf(run) {
    const { session, project } = this.#context;
    const role = roleFor(run.runType);
    const may = session.may(role, project);
    const label = hasEnded(run) ? "Retry" : "Cancel";
    if (run.status === "SUCCEEDED") return null;
    const isRetried = this.#retry ? "It was retried already; retry the newest of the chain." : "";
    const why = may ? isRetried : `This needs the role ${role}.`;
    const onclick = () => (hasEnded(run) ? this.#doRetry() : this.#doCancel());
    return [
      h(
        "button",
        {
          type: "button",
          disabled: why !== "",
          class: run.status === "FAILED" ? "primary" : hasEnded(run) ? "" : "danger",
          "aria-describedby": why ? "action-reason" : null,
          onclick,
        },
        label,
      ),
      why ? h("p", { id: "action-reason", class: "quiet small" }, why) : null,
    ];
  }

  async #doCancel() {
    const done = await cancelRuns(this.#context, [this.#run]);
    this.#afterAction(done, (run) => this.#take(run));
  }

  async #doRetry() {
    const done = await retryRuns(this.#context, [this.#run]);
    this.#afterAction(done, ({ id }) => this.#context.go({ run: id }));
  }

  #afterAction(done, then) {
    if (!done || !this.#id) return;
    for (const [, error] of done.refused) this.#context.notices.say(reasonOf(error), "failed");
    for (const run of done.runs) then(run);
  }

  // Which run retries this one: nothing in the run itself says so.
  async #findRetry() {
    if (!isRetryable(this.#run)) return;
    const { api, project } = this.#context;
    try {
      const { value } = await api.page(project, "runs", { retryOf: this.#id, limit: 1 });
      this.#retry = value[0] ?? null;
      if (this.#retry && this.#id) this.#show();
    } catch {
      // The link is missing, and the rest of the page works.
    }
  }

  #showResults(run) {
    const kind = run.runType === "APPLY" && run.status === "SUCCEEDED" ? "items" : run.draftId ? "draft" : "";
    if (kind === this.#hasResults || !kind) return;
    this.#hasResults = kind;
    this.#table?.close();
    const isItems = kind === "items";
    this.#table = isItems
      ? new ItemsTable(this.#context, run.id)
      : new DraftTable(this.#context, `drafts/${run.draftId}`);
    const title = isItems ? "Products" : "Before and after";
    const draft = isItems && run.draftId ? this.#draftBelow(run) : null;
    fill(
      this.#results,
      h(
        "section",
        { class: "sheet", "aria-labelledby": "h-results" },
        h("h2", { class: "sheet-title", id: "h-results" }, title),
        this.#table.element,
      ),
      draft,
    );
    this.#table.load();
  }

  // An apply's draft is read only when somebody opens it.
  #draftBelow(run) {
    const table = new DraftTable(this.#context, `drafts/${run.draftId}`);
    let isRead = false;
    const ontoggle = () => {
      if (!isRead) table.load();
      isRead = true;
    };
    return h(
      "details",
      { class: "sheet", ontoggle },
      h("summary", { class: "padded" }, "The draft that was applied"),
      table.element,
    );
  }
}
