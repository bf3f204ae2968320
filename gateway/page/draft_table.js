// A draft: what the products have beside what they would get.

import { h } from "./element.js";
import { Pager } from "./pager.js";
import { PLAYBOOKS, WARNINGS } from "./words.js";

const PAGE = 50; // items

// Shows the items of a draft. `path` reads it (drafts/{id}, or {playbook}/drafts/latest); `loaded(draft,
// pairs)` is called with the draft, null where there is none, and its first items.
export class DraftTable {
  #context;
  #path;
  #loaded;
  #rows = h("tbody", { role: "rowgroup" });
  #table = h(
    "table",
    { class: "draft", role: "table", hidden: true },
    h("caption", { class: "unseen" }, "Before and after"),
    h(
      "thead",
      { role: "rowgroup" },
      h(
        "tr",
        { role: "row" },
        ["Product", "Before", "After"].map((name) => h("th", { role: "columnheader", scope: "col" }, name)),
      ),
    ),
    this.#rows,
  );
  #pager = new Pager({ read: (token) => this.#read(token), show: (pairs) => this.#show(pairs) });
  #isFirst = true;

  constructor(context, path, loaded = () => {}) {
    this.#context = context;
    this.#path = path;
    this.#loaded = loaded;
    this.element = h("div", { class: "draft-table" }, this.#table, this.#pager.element);
  }

  // Read the draft anew.
  load() {
    this.#isFirst = true;
    return this.#pager.restart();
  }

  close() {
    this.#pager.close();
  }

  async #read(pageToken) {
    const { api, project } = this.#context;
    const { draft, nextPageToken } = await api.get(project, this.#path, { limit: PAGE, pageToken });
    if (!draft) return { values: { draft, pairs: [] }, next: "" };
    const ids = draft.items.map((item) => item.productId);
    const products = ids.length ? await this.#products(ids) : new Map();
    const pairs = draft.items.map((item) => ({ item, product: products.get(item.productId) }));
    return { values: { draft, pairs }, next: nextPageToken };
  }

  // What the products have now: the "before" of a suggestion.
  async #products(ids) {
    const { api, project } = this.#context;
    const found = new Map();
    let pageToken = "";
    do {
      const { value, next } = await api.page(project, "products", { productIds: ids, limit: ids.length, pageToken });
      for (const product of value) found.set(product.id, product);
      pageToken = next;
    } while (pageToken);
    return found;
  }

  #show({ draft, pairs }) {
    if (this.#isFirst) {
      this.#isFirst = false;
      this.#rows.replaceChildren();
      this.#loaded(draft, pairs);
    }
    if (draft) this.#rows.append(...pairs.map((pair) => rowOf(draft, pair)));
    this.#table.hidden = this.#rows.childElementCount === 0;
  }
}

function rowOf(draft, { item, product }) {
  const field = PLAYBOOKS[draft.playbookId]?.field;
  return h(
    "tr",
    { role: "row", "data-product": item.productId },
    h(
      "td",
      { role: "cell", class: "d-product" },
      h("strong", {}, product?.title || item.productId),
      h("code", { class: "short" }, item.productId),
    ),
    h("td", { role: "cell", class: "d-before", "data-label": "Before" }, beforeOf(product?.[field], product, item)),
    h("td", { role: "cell", class: "d-after", "data-label": "After" }, afterOf(item, product?.[field])),
  );
}

function beforeOf(text, product, item) {
  if (!product) return h("em", { class: "quiet" }, "The product is gone");
  // What equals the suggestion was written from it: drafts are of products that have none.
  return text.trim() && text !== item.finalSuggestion ? text : h("em", { class: "quiet" }, "Empty");
}

function afterOf(item, before) {
  const text = item.finalSuggestion;
  if (!text.trim()) {
    return [
      h("em", { class: "quiet" }, "No suggestion"),
      item.noSuggestionReason ? h("p", { class: "reason" }, item.noSuggestionReason) : null,
    ];
  }
  const isChanged = item.rawSuggestion !== text;
  return [
    h("span", { class: "suggestion" }, text),
    h(
      "div",
      { class: "marks" },
      h("span", { class: "quiet" }, `${[...text].length} characters`),
      item.ruleWarnings.map((warning) => h("span", { class: "mark mark-warning" }, WARNINGS[warning] ?? warning)),
      before === text ? h("span", { class: "mark" }, "Already in the catalog") : null,
      isChanged ? h("details", {}, h("summary", {}, "Before the rules"), h("span", {}, item.rawSuggestion)) : null,
    ),
  ];
}
