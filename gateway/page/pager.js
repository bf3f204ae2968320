// A list that is read page by page, at the person's pace.

import { h, setAttribute } from "./element.js";
import { problemBox } from "./parts.js";

// Shows rows below those that are there, and "Show more" while there are more. `read(pageToken)` returns
// {values, next}; `show(values)` adds them. A later restart() begins anew.
export class Pager {
  #read;
  #show;
  #next = "";
  #round = 0;
  #button = h("button", { type: "button", class: "more", hidden: true, onclick: () => this.#load() }, "Show more");
  #state = h("div");

  constructor({ read, show }) {
    this.#read = read;
    this.#show = show;
    this.element = h("div", { class: "pager" }, this.#state, this.#button);
  }

  // Read the first page.
  restart() {
    this.#round += 1;
    this.#next = "";
    return this.#load();
  }

  // Read nothing more.
  close() {
    this.#round += 1;
  }

  async #load() {
    const round = this.#round;
    setAttribute(this.#button, "disabled", true);
    this.#state.replaceChildren();
    try {
      const { values, next } = await this.#read(this.#next);
      if (round !== this.#round) return;
      this.#show(values);
      this.#next = next;
    } catch (error) {
      if (round !== this.#round) return;
      const isChanged = error.reason === "PAGE_TOKEN_INVALID"; // it was written again since
      this.#state.replaceChildren(problemBox(error, isChanged ? () => location.reload() : () => this.#load()));
    }
    this.#button.hidden = this.#next === "";
    setAttribute(this.#button, "disabled", false);
  }
}
