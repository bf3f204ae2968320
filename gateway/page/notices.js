// Short messages about what was done, read aloud by screen readers.

import { h } from "./element.js";

const SHOWN = 8_000; // milliseconds

// Says things in the element `#notices`.
export class Notices {
  #place = document.getElementById("notices");

  // Show a message; kind: "done" or "failed".
  say(message, kind = "done") {
    const close = h(
      "button",
      { type: "button", "aria-label": "Close this message", onclick: () => notice.remove() },
      "×",
    );
    const notice = h("div", { class: `notice notice-${kind}` }, h("span", {}, message), close);
    if (kind === "done") {
      this.#place.querySelector(".notice-done")?.remove(); // on a phone, several would cover what they are about
      setTimeout(() => notice.remove(), SHOWN);
    }
    this.#place.append(notice);
    while (this.#place.children.length > 4) this.#place.firstElementChild.remove();
  }
}
