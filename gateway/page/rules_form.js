// The rules for suggestions, to be edited.

import { h, setAttribute } from "./element.js";
import { count } from "./words.js";

const PAUSE = 350; // milliseconds after the last key before the rules count as changed

// `changed(rules)` is called a moment after each change.
export class RulesForm {
  #changed;
  #timer = 0;
  #words = h("p", { class: "small", id: "rules-words" });
  #enabled = h("input", { type: "checkbox", id: "rules-enabled" });
  #fields;
  #set;

  constructor(changed) {
    this.#changed = changed;
    const text = (id, max) => h("input", { id: `rules-${id}`, maxlength: max, autocomplete: "off" });
    this.#fields = {
      find: text("find", 1000),
      replace: text("replace", 1000),
      caseSensitive: h("input", { type: "checkbox", id: "rules-case" }),
      prefix: text("prefix", 500),
      suffix: text("suffix", 500),
      maxLength: h("input", { type: "number", id: "rules-max", min: 0, max: 10000, step: 1, inputmode: "numeric" }),
      phrases: h("textarea", { id: "rules-phrases", rows: 3, "aria-describedby": "rules-phrases-help" }),
    };
    const { find, replace, caseSensitive, prefix, suffix, maxLength, phrases } = this.#fields;
    const pair = (...children) => h("div", { class: "pair" }, ...children);
    this.#set = h(
      "fieldset",
      {},
      h("legend", { class: "unseen" }, "Rules"),
      pair(labelled("Find", find), labelled("Replace with", replace)),
      h("label", { class: "check" }, caseSensitive, "Match upper and lower case"),
      pair(labelled("Prefix", prefix), labelled("Suffix", suffix)),
      labelled("Maximum length", maxLength, "Characters; empty: no limit"),
      labelled(
        "Forbidden phrases",
        phrases,
        "One a line. A suggestion that has one gets a warning.",
        "rules-phrases-help",
      ),
    );
    this.element = h(
      "form",
      { class: "rules", onsubmit: (event) => event.preventDefault(), oninput: () => this.#soon() },
      this.#words,
      h(
        "details",
        {},
        h("summary", {}, "Edit rules"),
        h(
          "div",
          { class: "rules-fields" },
          h("label", { class: "check" }, this.#enabled, "Apply rules to the suggestions"),
          this.#set,
        ),
      ),
    );
    this.show(null);
  }

  // Show rules, as a run's meta has them; null: none.
  show(rules) {
    const { find, replace, caseSensitive, prefix, suffix, maxLength, phrases } = this.#fields;
    this.#enabled.checked = rules?.enabled ?? false;
    find.value = rules?.findReplace?.find ?? "";
    replace.value = rules?.findReplace?.replace ?? "";
    caseSensitive.checked = rules?.findReplace?.caseSensitive ?? false;
    prefix.value = rules?.prefix ?? "";
    suffix.value = rules?.suffix ?? "";
    maxLength.value = rules?.maxLength || "";
    phrases.value = (rules?.forbiddenPhrases ?? []).join("\n");
    this.#mode = rules?.mode ?? "";
    this.#showEnabled();
  }

  #mode = "";

  // The rules as they are in the form, as requests take them.
  get rules() {
    const { find, replace, caseSensitive, prefix, suffix, maxLength, phrases } = this.#fields;
    if (!this.#enabled.checked) return { enabled: false };
    return {
      enabled: true,
      ...(find.value
        ? { findReplace: { find: find.value, replace: replace.value, caseSensitive: caseSensitive.checked } }
        : {}),
      prefix: prefix.value,
      suffix: suffix.value,
      maxLength: Math.min(10_000, Math.max(0, Math.trunc(Number(maxLength.value)) || 0)),
      forbiddenPhrases: phrases.value
        .split("\n")
        .map((phrase) => phrase.trim())
        .filter(Boolean),
      ...(this.#mode ? { mode: this.#mode } : {}),
    };
  }

  close() {
    clearTimeout(this.#timer);
  }

  #soon() {
    this.#showEnabled();
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#changed(this.rules), PAUSE);
  }

  #showEnabled() {
    setAttribute(this.#set, "disabled", !this.#enabled.checked);
    this.#set.hidden = !this.#enabled.checked;
    this.#words.textContent = inWords(this.rules);
  }
}

// Return rules as a sentence, in the order in which they are applied.
function inWords({ enabled, findReplace, prefix, suffix, maxLength, forbiddenPhrases }) {
  if (!enabled) return "No rules: suggestions stay as they are.";
  const parts = [
    findReplace ? `replace “${findReplace.find}” by “${findReplace.replace}”` : "",
    prefix ? `put “${prefix}” before` : "",
    suffix ? `put “${suffix}” after` : "",
    maxLength ? `cut to ${maxLength} characters` : "",
    forbiddenPhrases.length ? `warn of ${count(forbiddenPhrases.length, "phrase")}` : "",
  ].filter(Boolean);
  const text = parts.length ? parts.join(", ") : "rules are on, and none is set";
  return `${text[0].toUpperCase()}${text.slice(1)}.`;
}

function labelled(label, field, help = "", id = null) {
  return h(
    "label",
    { class: "field" },
    h("span", { class: "label" }, label),
    field,
    help ? h("span", { class: "quiet small", id }, help) : null,
  );
}
