// The question before an apply: what it will change.

import { confirm } from "./dialog.js";
import { h } from "./element.js";
import { count, PLAYBOOKS } from "./words.js";

// Ask, and return whether the person agrees. `pairs` are the draft's first items with their products, as examples.
export function askToApply(label, { draft, pairs, project }) {
  const { noun, field } = PLAYBOOKS[draft.playbookId];
  const { affectedTotal, draftGenerated } = draft.counts;
  const examples = pairs.filter(({ item }) => item.finalSuggestion.trim());
  const products = count(draftGenerated, "product");
  const kept = affectedTotal - draftGenerated;
  const body = [
    h("p", {}, `This writes the ${noun} of ${products} in project ${project}. Each of them has none now.`),
    kept ? h("p", {}, `What has no suggestion stays as it is: ${count(kept, "product")}.`) : null,
    h(
      "ul",
      { class: "named", tabindex: 0, "aria-label": "Examples" },
      examples.map((pair) => exampleOf(pair, field)),
      draftGenerated > examples.length
        ? h("li", { class: "quiet" }, `and ${count(draftGenerated - examples.length, "more product")}`)
        : null,
    ),
    h("p", { class: "quiet" }, "No AI is used. All products are written together, or none."),
  ];
  return confirm(`${label}?`, body, label);
}

function exampleOf({ item, product }, field) {
  return h(
    "li",
    {},
    h("strong", {}, product?.title || item.productId),
    h("br"),
    h("span", { class: "quiet" }, product?.[field]?.trim() || "Empty", " → "),
    item.finalSuggestion,
  );
}
