// What is said above a draft.

import { h } from "./element.js";
import { emptyState, statusChip } from "./parts.js";
import { timeOf } from "./times.js";
import { count, DRAFT_STATUSES } from "./words.js";

// Return the title of a draft, its state and its counts. `draft`: null where there is none, undefined while it is read.
export function headOfDraft(draft, { noun, stale, applied, problem }) {
  const title = h("h2", { id: "h-draft" }, "Before and after");
  if (draft === undefined) {
    return [title, problem ? null : h("p", { class: "quiet", role: "status" }, "Reading the draft…")];
  }
  if (draft === null) {
    const text = `A preview shows what the ${noun}s would look like before anything is written.`;
    return [title, emptyState("No draft yet", text)];
  }
  const known = stale ? ["STALE", "Stale"] : [draft.status, applied ? "Applied" : DRAFT_STATUSES[draft.status]];
  return [
    h("div", { class: "draft-title" }, title, statusChip(...known)),
    h(
      "p",
      { class: "quiet small" },
      `${countsOf(draft)} · by ${draft.model || "an unknown model"} · `,
      timeOf(draft.updatedAt),
      ...useOf(draft, stale, applied),
    ),
  ];
}

// What can be done with it, or was.
function useOf(draft, stale, applied) {
  if (applied) return [" · applied ", timeOf(applied.finishedAt)];
  return stale ? [] : [" · can be applied until ", timeOf(draft.expiresAt)];
}

function countsOf({ counts: { affectedTotal, draftGenerated, noSuggestionCount } }) {
  const without = noSuggestionCount ? `, ${noSuggestionCount.toLocaleString("en")} without one` : "";
  return `${draftGenerated.toLocaleString("en")} of ${count(affectedTotal, "product")} with a suggestion${without}`;
}
