// The rows that are selected, and what can be done with their runs.

import { h, setAttribute } from "./element.js";
import { count, hasEnded, isRetryable, roleFor } from "./words.js";

export class Selection {
  #context;
  #rows = [];
  #changed;
  #label = h("strong", { role: "status" });
  #reason = h("span", { class: "quiet", id: "selection-reason" });
  #buttons;

  // `cancel` and `retry` are called with the runs that can be, `changed` when others are selected.
  constructor(context, { cancel, retry, changed }) {
    this.#context = context;
    this.#changed = changed;
    this.all = h("input", {
      type: "checkbox",
      "aria-label": "Select all runs that are shown",
      onchange: () => this.#selectAll(),
    });
    const button = (onclick) => h("button", { type: "button", "aria-describedby": "selection-reason", onclick });
    this.#buttons = {
      cancel: button(() => cancel(this.#possible(isCancellable))),
      retry: button(() => retry(this.#possible(isRetryable))),
    };
    this.element = h(
      "div",
      { class: "selection", hidden: true, role: "region", "aria-label": "Selected runs" },
      this.#label,
      this.#buttons.cancel,
      this.#buttons.retry,
      this.#reason,
      h("span", { class: "space" }),
      h("button", { type: "button", class: "plain", onclick: () => this.clear() }, "Clear selection"),
    );
  }

  get size() {
    return this.#chosen.length;
  }

  get #chosen() {
    return this.#rows.filter((row) => row.box.checked).map((row) => row.run);
  }

  // Keep what is selected among the rows that are shown now.
  keep(rows) {
    const kept = new Set(rows);
    for (const row of this.#rows) if (!kept.has(row)) row.box.checked = false;
    this.#rows = rows;
    this.show();
  }

  clear() {
    for (const row of this.#rows) row.box.checked = false;
    this.show();
  }

  // Show what is selected.
  show() {
    const { size } = this;
    this.element.hidden = size === 0;
    this.all.checked = size > 0 && size === this.#rows.length;
    this.all.indeterminate = size > 0 && size < this.#rows.length;
    this.#changed();
    if (size === 0) return;
    this.#label.textContent = `${count(size, "run")} selected`;
    const able = { cancel: this.#possible(isCancellable).length, retry: this.#possible(isRetryable).length };
    this.#buttons.cancel.textContent = able.cancel ? `Cancel ${count(able.cancel, "run")}` : "Cancel";
    this.#buttons.retry.textContent = able.retry ? `Retry ${count(able.retry, "run")}` : "Retry";
    for (const [name, button] of Object.entries(this.#buttons)) setAttribute(button, "disabled", able[name] === 0);
    this.#reason.textContent = this.#why(able);
  }

  #selectAll() {
    for (const row of this.#rows) row.box.checked = this.all.checked;
    this.show();
  }

  #possible(isPossible) {
    return this.#chosen.filter((run) => isPossible(run) && this.#mayAct(run));
  }

  #mayAct(run) {
    return this.#context.session.may(roleFor(run.runType), this.#context.project);
  }

  #why(able) {
    const chosen = this.#chosen;
    if (!chosen.some((run) => this.#mayAct(run))) return "Your role is too low to cancel or retry these.";
    if (able.cancel || able.retry) return "";
    return "Only runs that have not ended can be cancelled, and only failed, stale and cancelled ones retried.";
  }
}

function isCancellable(run) {
  return !hasEnded(run);
}
