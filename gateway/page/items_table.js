// What an apply did, product by product.

import { h } from "./element.js";
import { Pager } from "./pager.js";
import { statusChip } from "./parts.js";
import { ITEM_STATUSES } from "./words.js";

const PAGE = 100; // items

export class ItemsTable {
  #rows = h("tbody", {});
  #table = h(
    "table",
    { class: "items", hidden: true },
    h("caption", { class: "unseen" }, "Products of this run"),
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        ["Product", "Result", "Reason"].map((name) => h("th", { scope: "col" }, name)),
      ),
    ),
    this.#rows,
  );
  #none = h("p", { class: "quiet padded", hidden: true }, "No product was concerned.");
  #pager;

  constructor({ api, project }, runId) {
    this.#pager = new Pager({
      read: async (pageToken) => {
        const { value, next } = await api.page(project, `runs/${runId}/items`, { limit: PAGE, pageToken });
        return { values: value, next };
      },
      show: (items) => this.#show(items),
    });
    this.element = h("div", {}, this.#table, this.#none, this.#pager.element);
  }

  load() {
    this.#rows.replaceChildren();
    return this.#pager.restart();
  }

  close() {
    this.#pager.close();
  }

  #show(items) {
    this.#rows.append(...items.map(rowOf));
    this.#table.hidden = this.#rows.childElementCount === 0;
    this.#none.hidden = !this.#table.hidden;
  }
}

function rowOf({ productId, status, message }) {
  return h(
    "tr",
    { "data-product": productId },
    h("td", {}, h("code", {}, productId)),
    h("td", {}, statusChip(status, ITEM_STATUSES[status] ?? status)),
    h("td", {}, message || h("span", { class: "quiet" }, "–")),
  );
}
