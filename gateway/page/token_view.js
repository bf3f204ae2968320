// What is shown without a token, or without a project.

import { h } from "./element.js";

// Ask for a token, and say what was wrong with the one before.
export function openToken(app) {
  const { session } = app;
  const error = h("p", { class: "field-error", role: "alert", id: "token-error" });
  const field = h("textarea", {
    id: "token",
    rows: 4,
    required: true,
    spellcheck: "false",
    autocomplete: "off",
    "aria-describedby": "token-help token-error",
  });
  const submit = (event) => {
    event.preventDefault();
    try {
      session.use(field.value);
    } catch (problem) {
      error.textContent = problem.message;
      field.focus();
    }
  };
  const element = h(
    "section",
    { class: "gate" },
    h("h1", {}, session.problem ? "A new token is needed" : "Your token, please"),
    whatHappened(session),
    h(
      "form",
      { onsubmit: submit, novalidate: true },
      h("label", { for: "token" }, "Token"),
      field,
      error,
      h("p", { class: "quiet", id: "token-help" }, "On the machine where the stack runs, this prints one:"),
      h("pre", {}, "playbook-runs token --project YOUR-SHOP --role OWNER"),
      h("p", { class: "quiet" }, "The token stays in this tab and is gone when you close it."),
      h(
        "p",
        { class: "actions" },
        h("button", { type: "submit", class: "primary" }, "Open"),
        h(
          "button",
          { type: "button", class: "plain", onclick: () => session.goAnonymous() },
          "Continue without a token",
        ),
      ),
    ),
  );
  return { element, title: "Token" };
}

function whatHappened({ problem, expires }) {
  if (problem?.reason === "TOKEN_EXPIRED") {
    const when = expires ? ` at ${new Date(expires).toLocaleString()}` : "";
    return h(
      "p",
      { class: "banner banner-warning", role: "alert" },
      `Your token expired${when}. Paste a new one; you will be back where you were.`,
    );
  }
  if (problem?.reason === "TOKEN_MISSING") {
    return h("p", { class: "banner banner-warning", role: "alert" }, "This server asks for a token.");
  }
  if (problem) {
    return h("p", { class: "banner banner-error", role: "alert" }, `The server refused the token: ${problem.message}`);
  }
  return h("p", {}, "This page shows what your token allows.");
}

// Ask which project to open: the token is for every one.
export function openProject(app) {
  const field = h("input", { id: "project", required: true, maxlength: 200, autocomplete: "off", spellcheck: "false" });
  const submit = (event) => {
    event.preventDefault();
    const project = field.value.trim();
    if (project) app.go({ project, view: "runs" });
    else field.focus();
  };
  const { named, every } = app.session.projects;
  const hasNone = named.length === 0 && !every;
  const element = h(
    "section",
    { class: "gate" },
    h("h1", {}, hasNone ? "This token is for no project" : "Which project?"),
    h(
      "p",
      {},
      hasNone
        ? "Ask for one whose “projects” name yours."
        : "Your token is for every project. Type the id of the one to open.",
    ),
    hasNone
      ? null
      : h(
          "form",
          { onsubmit: submit },
          h("label", { for: "project" }, "Project id"),
          field,
          h("p", { class: "actions" }, h("button", { type: "submit", class: "primary" }, "Open")),
        ),
  );
  return { element, title: "Project" };
}
