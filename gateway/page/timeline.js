// The history of a run, change by change.

import { h } from "./element.js";
import { duration, timeOf } from "./times.js";
import { STATUSES } from "./words.js";

// Shows changes in the order of their sequence. Changes of progress, one after the other, are one entry.
export class Timeline {
  #last = null; // the run as of the last change
  #progress = null; // the entry that further progress changes
  #created = 0;

  constructor() {
    this.element = h("ol", { class: "timeline", "aria-label": "Timeline" });
  }

  // Begin anew: `isWhole` false, older changes are not kept any more.
  clear({ isWhole = true } = {}) {
    this.#last = this.#progress = null;
    this.element.replaceChildren();
    if (!isWhole) this.element.append(h("li", { class: "quiet" }, "Older changes are not kept any more."));
  }

  // Add a change; one that is there already is left out.
  add(run) {
    const last = this.#last;
    if (last && run.sequence <= last.sequence) return;
    this.#created ||= Date.parse(run.createdAt);
    this.#last = run;
    const text = wordsFor(last, run);
    const isProgress = text === null;
    const entry = this.#entry(run, isProgress ? progressText(run) : text, isProgress);
    if (isProgress && this.#progress) this.#progress.replaceWith(entry);
    else this.element.append(entry);
    this.#progress = isProgress ? entry : null;
  }

  #entry(run, text, isProgress) {
    const at = run.updatedAt || run.createdAt;
    const kind = isProgress ? "progress" : run.status.toLowerCase();
    return h(
      "li",
      { class: `entry entry-${kind}`, "data-sequence": run.sequence },
      h("span", { class: "entry-text" }, text),
      h("span", { class: "quiet small" }, timeOf(at), ` · +${duration(Date.parse(at) - this.#created)}`),
    );
  }
}

// Return what a change was; null: only the progress went on.
function wordsFor(before, run) {
  if (run.status === before?.status && run.attempt === before.attempt) return null;
  if (run.status === "QUEUED") return "Queued";
  if (run.status === "RUNNING")
    return run.attempt > 1
      ? `Started again, attempt ${run.attempt}: the executor before had died or stopped`
      : "Started";
  return [STATUSES[run.status] ?? run.status, run.errorCode ? [": ", h("code", {}, run.errorCode)] : null];
}

function progressText({ progress }) {
  if (!progress?.total) return "Working";
  return `${progress.completed.toLocaleString("en")} of ${progress.total.toLocaleString("en")} products`;
}
