// The list of runs: newest first, live, with filters in the address.

import { arrange, fill, h, setAttribute } from "./element.js";
import { cancelRuns, retryRuns } from "./actions.js";
import { emptyState, linkTo, problemBox, reasonOf } from "./parts.js";
import { RunFilters } from "./run_filters.js";
import { RunList } from "./run_list.js";
import { RunRow } from "./run_row.js";
import { Selection } from "./selection.js";

const RENDER_PAUSE = 120; // milliseconds between two renderings of a list that changes all the time
const COLUMNS = ["Status", "Run", "Progress", "Duration", "Who", "When"];

export function openRuns(context) {
  const view = new RunsView(context);
  view.start();
  return view;
}

class RunsView {
  title = "Runs";
  #context;
  #list;
  #filters;
  #selection;
  #rows = new Map(); // RunRow by run id
  #body = h("tbody", { role: "rowgroup" });
  #state = h("div", { class: "list-state" });
  #more = h("button", { type: "button", class: "more", hidden: true, onclick: () => this.#loadMore() }, "Load more");
  #table;
  #timer = 0;
  #isLoaded = false;
  #problem = null;
  #again = null; // does what failed once more

  constructor(context) {
    this.#context = context;
    this.#list = new RunList(context.api, context.project, context.place);
    this.#filters = new RunFilters(context);
    this.#selection = new Selection(context, {
      cancel: (runs) => this.#act(cancelRuns, runs),
      retry: (runs) => this.#act(retryRuns, runs),
      changed: () => this.#selected(),
    });
    this.#table = h(
      "table",
      { role: "table", class: "runs", "aria-label": "Runs, newest first" },
      h(
        "thead",
        { role: "rowgroup" },
        h(
          "tr",
          { role: "row" },
          h("th", { role: "columnheader", scope: "col" }, this.#selection.all),
          COLUMNS.map((name) => h("th", { role: "columnheader", scope: "col" }, name)),
        ),
      ),
      this.#body,
    );
    this.element = h(
      "section",
      { class: "wide" },
      h("div", { class: "title-row" }, h("h1", {}, "Runs"), this.#filters.find),
      this.#filters.element,
      this.#selection.element,
      h("div", { class: "sheet" }, this.#table, this.#state),
      this.#more,
    );
  }

  start() {
    this.#load();
    this.#context.live.follow({
      project: this.#context.project,
      path: "runs:watch",
      take: ({ data }) => data && this.#take(data),
      restarted: () => this.#load(),
      refused: (problem) => this.#failed(problem),
    });
  }

  // Show the list with other filters.
  change(place) {
    this.#context = { ...this.#context, place };
    this.#list.close();
    this.#list = new RunList(this.#context.api, this.#context.project, place);
    this.#filters.show(place);
    this.#selection.clear();
    this.#isLoaded = false;
    this.#load();
    return true;
  }

  tick() {
    const now = this.#context.api.now();
    for (const row of this.#rows.values()) if (!row.run.finishedAt) row.tick(now);
  }

  close() {
    clearTimeout(this.#timer);
    this.#list.close();
  }

  async #load() {
    await this.#during((list) => list.load());
  }

  async #loadMore() {
    setAttribute(this.#more, "disabled", true);
    await this.#during((list) => list.more(), () => this.#loadMore());
    setAttribute(this.#more, "disabled", false);
  }

  async #during(load, again = () => this.#load()) {
    const list = this.#list;
    this.#problem = null;
    this.#again = again;
    this.#render();
    try {
      await load(list);
      this.#isLoaded ||= list === this.#list;
    } catch (error) {
      if (list !== this.#list || error.name === "AbortError") return;
      this.#problem = error;
    }
    if (list === this.#list) this.#render();
  }

  #take(run) {
    const isLong = this.#list.take(run);
    if (isLong && this.#selection.size === 0) this.#load();
    this.#timer ||= setTimeout(() => this.#render(), RENDER_PAUSE);
  }

  #failed(problem) {
    this.#problem = problem;
    this.#render();
  }

  #render() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    const runs = this.#isLoaded ? this.#list.visible : [];
    const now = this.#context.api.now();
    const shown = new Map();
    for (const run of runs) {
      const row = this.#rows.get(run.id) ?? this.#row(run);
      row.show(run, now);
      shown.set(run.id, row);
    }
    this.#rows = shown;
    arrange(
      this.#body,
      [...shown.values()].map((row) => row.element),
    );
    this.#more.hidden = !this.#list.hasMore || !this.#isLoaded;
    this.#table.hidden = runs.length === 0;
    fill(this.#state, this.#stateOf(runs));
    this.#selection.keep([...shown.values()]);
  }

  #row(run) {
    const { project, go } = this.#context;
    return new RunRow(run, { project, onopen: ({ id }) => go({ run: id }), onselect: () => this.#selection.show() });
  }

  #stateOf(runs) {
    const { place, project } = this.#context;
    if (this.#problem) return problemBox(this.#problem, this.#again);
    if (!this.#isLoaded) return h("p", { class: "quiet loading", role: "status" }, "Loading runs…");
    if (runs.length > 0) return null;
    if (this.#list.hasMore) return emptyState("None among the newest", "Load more to look further back.");
    if (place.playbook || place.type || place.status || place.scope) {
      return emptyState(
        "No runs match these filters",
        "Take a filter away, or clear all of them.",
        linkTo({ project, view: "runs" }, { class: "button" }, "Clear filters"),
      );
    }
    return emptyState(
      "No runs yet",
      "A run appears here as soon as somebody makes a preview.",
      linkTo({ project, view: "playbooks" }, { class: "button primary" }, "Open the playbooks"),
    );
  }

  #selected() {
    for (const row of this.#rows.values()) row.element.classList.toggle("selected", row.box.checked);
  }

  async #act(action, runs) {
    const { notices } = this.#context;
    const done = await action(this.#context, runs);
    if (!done) return;
    for (const run of done.runs) this.#list.take(run);
    for (const [run, error] of done.refused) notices.say(`Run ${run.id.slice(-8)}: ${reasonOf(error)}`, "failed");
    this.#selection.clear();
    this.#render();
  }
}
