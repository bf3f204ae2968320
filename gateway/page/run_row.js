// A row of the list of runs.

import { fill, h } from "./element.js";
import { linkTo, statusChip } from "./parts.js";
import { durations, timeOf } from "./times.js";
import { count, hasEnded, playbookName, TYPES } from "./words.js";

// One row; show(run) brings it up to date. What can have the focus stays the same element.
export class RunRow {
  #sequence = 0;
  #cells;

  // `onopen(run)` is called for a click on the row, `onselect()` when its box changes.
  constructor(run, { project, onopen, onselect }) {
    this.run = run;
    const short = run.id.slice(-8);
    this.box = h("input", { type: "checkbox", "aria-label": `Select run ${short}`, onchange: onselect });
    const link = linkTo({ project, run: run.id }, { class: "row-link" }, TYPES[run.runType] ?? run.runType);
    const cell = (name, label, ...children) => h("td", { role: "cell", class: name, "data-label": label }, ...children);
    this.#cells = {
      status: cell("c-status", "Status"),
      progress: cell("c-progress", "Progress"),
      duration: cell("c-duration", "Duration"),
    };
    this.element = h(
      "tr",
      { role: "row", "data-run": run.id, onclick: (event) => this.#clicked(event, onopen) },
      cell("c-box", "", this.box),
      this.#cells.status,
      cell(
        "c-run",
        "Run",
        link,
        " ",
        h("span", { class: "quiet" }, playbookName(run.playbookId)),
        " ",
        h("code", { class: "short", title: run.id }, short),
      ),
      this.#cells.progress,
      this.#cells.duration,
      cell("c-who", "Who", run.createdByUserId),
      cell("c-when", "When", timeOf(run.createdAt)),
    );
    this.show(run, 0);
  }

  // Show a run as it is now, at the server's time `now`.
  show(run, now) {
    if (run.sequence !== this.#sequence) {
      this.#sequence = run.sequence;
      this.run = run;
      fill(this.#cells.status, statusChip(run.status));
      fill(this.#cells.progress, progressOf(run));
    }
    if (now || hasEnded(run)) this.tick(now);
  }

  // Show how long it has taken until `now`.
  tick(now) {
    const text = durations(this.run, now);
    if (this.#cells.duration.textContent !== text) this.#cells.duration.textContent = text;
  }

  #clicked(event, onopen) {
    if (event.target.closest("a, input, button, label") || !getSelection().isCollapsed) return;
    onopen(this.run);
  }
}

// Return how far a run is, or what came of it.
export function progressOf(run) {
  const { progress, result, status } = run;
  if (result && run.runType === "APPLY") {
    const rest = [
      result.skipped && `${result.skipped.toLocaleString("en")} skipped`,
      result.failed && `${result.failed.toLocaleString("en")} failed`,
    ];
    return [
      count(result.updated, "product"),
      " updated",
      rest
        .filter(Boolean)
        .map((one) => `, ${one}`)
        .join(""),
    ];
  }
  if (result) return `${count(result.draftGenerated, "suggestion")} for ${result.affectedTotal.toLocaleString("en")}`;
  if (run.errorCode) return h("code", { class: "error-code" }, run.errorCode);
  if (status === "QUEUED") return h("span", { class: "quiet" }, "waiting");
  if (!progress?.total) return h("span", { class: "quiet" }, hasEnded(run) ? "–" : "starting");
  const { completed, total } = progress;
  const text = `${completed.toLocaleString("en")} of ${total.toLocaleString("en")}`;
  if (hasEnded(run)) return text;
  return [h("progress", { max: total, value: completed, "aria-label": "Progress" }), " ", text];
}
