// Why a run did not succeed, and what to do.

import { h } from "./element.js";
import { copyButton, linkTo } from "./parts.js";
import { ADVICE } from "./words.js";

// Return the error of a run that has one.
export function failureOf(run, project) {
  const advice = ADVICE[run.errorCode];
  const code = h("code", { class: "error-code" }, run.errorCode);
  const isPrimary = run.status === "STALE"; // a retry would be stale as well
  const playbook = { project, view: "playbooks", playbook: run.playbookId };
  return h(
    "div",
    { class: "banner banner-error failure" },
    h("p", {}, code, " ", copyButton(() => run.errorCode, "Copy the error code")),
    h("p", {}, run.errorMessage),
    advice ? h("p", {}, h("strong", {}, "What to do: "), advice) : null,
    h(
      "p",
      { class: "failure-link" },
      linkTo(playbook, { class: isPrimary ? "button primary" : "button" }, "Open the playbook"),
    ),
  );
}
