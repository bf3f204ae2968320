// Questions before what cannot be undone.

import { h } from "./element.js";

// Ask, and return whether the person agrees. `body` are nodes, `agree` is the label of the button that does it.
export function confirm(title, body, agree, { isDangerous = false } = {}) {
  return new Promise((resolve) => {
    const yes = h(
      "button",
      { type: "button", class: isDangerous ? "danger" : "primary", onclick: () => dialog.close("yes") },
      agree,
    );
    const no = h("button", { type: "button", onclick: () => dialog.close() }, "Back");
    const dialog = h(
      "dialog",
      { "aria-labelledby": "dialog-title", onclose: () => end() },
      h("h2", { id: "dialog-title" }, title),
      h("div", { class: "dialog-body" }, body),
      h("div", { class: "dialog-actions" }, no, yes),
    );
    // Closed first, which gives the focus back to what had it.
    function end() {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    }
    document.body.append(dialog);
    dialog.showModal();
    no.focus();
  });
}
