// Questions before what cannot be undone.

import { h } from "./element.js";

// Ask, and return whether the person agrees. `body` are nodes, `agree` is the label of the button that does it.
export function confirm(title, body, agree, { isDangerous = false } = {}) {
  return new Promise((resolve) => {
    const yes = h(
      "button",
      { type: "button", class: isDangerous ? "danger" : "primary", onclick: () => end(true) },
      agree,
    );
    const no = h("button", { type: "button", onclick: () => end(false) }, "Back");
    const dialog = h(
      "dialog",
      { "aria-labelledby": "dialog-title", onclose: () => end(false) },
      h("h2", { id: "dialog-title" }, title),
      h("div", { class: "dialog-body" }, body),
      h("div", { class: "dialog-actions" }, no, yes),
    );
    function end(answer) {
      resolve(answer);
      dialog.remove();
    }
    document.body.append(dialog);
    dialog.showModal();
    no.focus();
  });
}
