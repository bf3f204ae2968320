// Small parts that several views show.

import { h } from "./element.js";
import { of } from "./address.js";
import { STATUSES } from "./words.js";

// A link to another place of this page.
export function linkTo(place, properties, ...children) {
  return h("a", { href: of(place), ...properties }, ...children);
}

// A run's state: a word, with a colour beside it.
export function statusChip(status, label = STATUSES[status] ?? status) {
  return h("span", { class: `chip chip-${status.toLowerCase()}`, "data-status": status }, label);
}

// A button that copies what `read` returns. `what` says what that is: "Copy the scope".
export function copyButton(read, what) {
  const button = h("button", { type: "button", class: "copy", "aria-label": what, title: what, onclick: copy }, "Copy");
  let timer = 0;
  async function copy() {
    const isCopied = await navigator.clipboard.writeText(read()).then(
      () => true,
      () => false,
    );
    button.textContent = isCopied ? "Copied" : "Not allowed";
    clearTimeout(timer);
    timer = setTimeout(() => (button.textContent = "Copy"), 1_500);
  }
  return button;
}

// An identifier with its copy button.
export function identifier(text, what, shown = text) {
  if (!text) return h("span", { class: "quiet" }, "–");
  return h("span", { class: "identifier" }, h("code", { title: text }, shown), copyButton(() => text, `Copy the ${what}`));
}

// A message where there is nothing to show: a title, what to do, and links or buttons for it.
export function emptyState(title, text, ...actions) {
  return h("div", { class: "empty" }, h("h2", {}, title), h("p", {}, text), h("p", { class: "actions" }, ...actions));
}

// What went wrong, with what to do. `again` is called by its button; left out: there is none.
export function problemBox(problem, again = null) {
  const fields =
    problem.fields?.map(({ field, description }) => h("li", {}, h("code", {}, field), ` ${description}`)) ?? [];
  return h(
    "div",
    { class: "problem", role: "alert" },
    h("p", { class: "problem-title" }, titleOf(problem)),
    h("p", {}, problem.message ? sentence(problem.message) : "The server did not say why."),
    fields.length > 1 ? h("ul", {}, fields) : null,
    h("p", { class: "quiet small" }, adviceOf(problem), problem.requestId ? ` Request ${problem.requestId}` : ""),
    again ? h("button", { type: "button", onclick: again }, "Try again") : null,
  );
}

// A paragraph that says in one line why a call was refused.
export function reasonOf(error) {
  return error.message ? sentence(error.message) : error.reason || String(error);
}

// The services say it as a part of a line: "the run has ended". Names of fields stay as they are.
function sentence(message) {
  const begun = /^[a-z]+[\s,;:]/.test(message) ? message[0].toUpperCase() + message.slice(1) : message;
  return /[.!?]$/.test(begun) ? begun : `${begun}.`;
}

function titleOf({ status, reason }) {
  if (status === 0) return "No connection to the server";
  if (status === 403) return "Your token does not allow this";
  if (status === 404) return "Not found";
  if (status === 429) return "Too many calls at once";
  if (status >= 500) return `The server cannot do this now (${reason || status})`;
  return `The server refused this (${reason || status})`;
}

function adviceOf({ status }) {
  if (status === 0) return "Look whether the gateway runs and whether you are online.";
  if (status === 403) return "Ask the project's owner for a token with a higher role, or open another project.";
  if (status === 404) return "It may belong to another project, or have been deleted.";
  if (status === 429 || status === 503) return "This passes by itself: try again in a moment.";
  if (status >= 500) return "The server's log has it under the request's id.";
  return "";
}
