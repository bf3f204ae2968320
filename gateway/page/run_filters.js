// The filters of the list of runs, and the search for one by its id.

import { h, setAttribute } from "./element.js";
import { linkTo } from "./parts.js";
import { PLAYBOOKS, STATUSES, TYPES } from "./words.js";

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;

export class RunFilters {
  #context;
  #selects;
  #scope;
  #clear;

  constructor(context) {
    this.#context = context;
    const names = (words) => Object.entries(words).map(([value, word]) => [value, word.name ?? word]);
    this.#selects = {
      playbook: choice("Playbook", "All playbooks", names(PLAYBOOKS), () => this.#changed()),
      type: choice("Type", "All types", names(TYPES), () => this.#changed()),
      status: choice("Status", "Any status", names(STATUSES), () => this.#changed()),
    };
    this.#scope = h("input", {
      type: "search",
      placeholder: "Any scope",
      maxlength: 64,
      size: 18,
      spellcheck: "false",
      autocomplete: "off",
      onchange: () => this.#changed(),
    });
    this.#clear = linkTo({ project: context.project, view: "runs" }, { class: "clear" }, "Clear filters");
    const form = {
      class: "filters",
      role: "search",
      "aria-label": "Filter the runs",
      onsubmit: (event) => event.preventDefault(),
    };
    this.element = h(
      "form",
      form,
      Object.values(this.#selects).map(({ label }) => label),
      h("label", {}, h("span", { class: "label" }, "Scope"), this.#scope),
      this.#clear,
    );
    this.find = finder(context);
    this.show(context.place);
  }

  // Show the filters of a place.
  show(place) {
    this.#context = { ...this.#context, place };
    for (const [name, { select }] of Object.entries(this.#selects)) select.value = place[name];
    this.#scope.value = place.scope;
    this.#clear.hidden = !(place.playbook || place.type || place.status || place.scope);
  }

  #changed() {
    const chosen = Object.entries(this.#selects).map(([name, { select }]) => [name, select.value]);
    this.#context.go({ view: "runs", ...Object.fromEntries(chosen), scope: this.#scope.value.trim() });
  }
}

function choice(name, all, options, onchange) {
  const select = h(
    "select",
    { onchange },
    h("option", { value: "" }, all),
    options.map(([value, word]) => h("option", { value }, word)),
  );
  return { select, label: h("label", {}, h("span", { class: "label" }, name), select) };
}

function finder({ api, project, go }) {
  const error = h("span", { class: "field-error", role: "alert", id: "find-error" });
  const field = h("input", {
    type: "search",
    id: "find",
    placeholder: "Run id",
    size: 36,
    maxlength: 60,
    spellcheck: "false",
    autocomplete: "off",
    "aria-describedby": "find-error",
  });
  const say = (message) => {
    error.textContent = message;
    setAttribute(field, "aria-invalid", message !== "");
  };
  async function submit(event) {
    event.preventDefault();
    const id = field.value.trim().toLowerCase();
    if (!UUID.test(id)) return say("A run's id has 36 characters, like 01a22539-f80b-7991-9c61-24696cc7e877.");
    say("");
    try {
      await api.get(project, `runs/${id}`);
      go({ run: id });
    } catch (problem) {
      say(problem.status === 404 ? "There is no run with this id in this project." : problem.message);
    }
  }
  return h(
    "form",
    { class: "find", onsubmit: submit, oninput: () => say("") },
    h("label", { for: "find" }, "Find by id"),
    field,
    h("button", { type: "submit" }, "Find"),
    error,
  );
}
