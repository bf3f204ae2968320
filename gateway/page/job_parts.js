// What the job of a playbook is shown with.

import { h, refill, setAttribute } from "./element.js";
import { emptyState, linkTo, statusChip } from "./parts.js";
import { progressOf } from "./run_row.js";
import { durations, timeOf } from "./times.js";
import { count, hasEnded, roleFor, TYPES } from "./words.js";

// A step with its button. show(label, why, {isBusy, isNext}): `why` says why the button does nothing now; "": it does.
// The button of the next step stands out.
export function step(title, extra, text, onclick) {
  const id = `why-${title.toLowerCase().replaceAll(" ", "-")}`;
  const button = h("button", { type: "button", "aria-describedby": id, onclick });
  const reason = h("p", { class: "why", id });
  return {
    element: h(
      "li",
      { class: "step" },
      h("h2", {}, title),
      h("p", { class: "quiet small" }, text),
      extra,
      button,
      reason,
    ),
    show(label, why, { isBusy, isNext }) {
      button.classList.toggle("primary", isNext);
      if (button.textContent !== label) button.textContent = label;
      if (reason.textContent !== why) reason.textContent = why;
      setAttribute(button, "disabled", why !== "" || isBusy);
    },
  };
}

// The choice of suggestions at half the price, where a run that calls AI is created. `box` is its checkbox.
export function economyBox(name) {
  const box = h("input", { type: "checkbox", id: `economy-${name}` });
  const element = h("label", { class: "check" }, box, "Economy: about half the price, but may take hours");
  return { box, element };
}

// What is shown where there is no such project. The import makes it.
export function noProject(project, again) {
  const text = "Import a catalog, or open another project. The import makes the project:";
  return withoutCatalog(`There is no project ${project} yet`, text, project, again);
}

// What is shown where a project has no products.
export function noProducts(project, again) {
  return withoutCatalog("This project has no products yet", "Import a catalog:", project, again);
}

function withoutCatalog(title, text, project, again) {
  return h(
    "div",
    { class: "sheet missing" },
    emptyState(title, text, h("code", {}, `playbook-runs import products_export.csv --project ${project}`)),
    h("p", { class: "actions" }, h("button", { type: "button", onclick: again }, "Look again")),
  );
}

// What there is to do, and how much AI may still be asked today.
export function allowanceOf({ estimate, noun }) {
  if (!estimate) return h("p", { class: "quiet", role: "status" }, "Reading the estimate…");
  const { totalAffected, eligible, reasons, aiDailyLimit } = estimate;
  return [
    h(
      "div",
      { class: "figure" },
      h("span", { class: "number" }, totalAffected.toLocaleString("en")),
      h("span", {}, `${totalAffected === 1 ? "product" : "products"} without ${noun}`),
    ),
    aiDailyLimit ? h("div", { class: "figure" }, allowance(aiDailyLimit)) : null,
    eligible || totalAffected === 0 ? null : h("p", { class: "banner banner-warning" }, reasons.join(" ")),
  ];
}

function allowance({ limit, used, remaining, resetsAt }) {
  if (limit === null || limit === undefined) {
    return [
      h("span", { class: "number" }, "No limit"),
      h("span", {}, `on AI suggestions; ${used.toLocaleString("en")} used today`),
    ];
  }
  return [
    h("span", { class: "number" }, remaining.toLocaleString("en")),
    h("span", {}, `of ${count(limit, "AI suggestion")} left today`),
    h("span", { class: "quiet small" }, "resets ", timeOf(resetsAt)),
  ];
}

// What is wrong with the draft, or what came of it; null: nothing. `preview` makes a new one.
export function noticeOf({ stale, applied, previewBlocked, estimate }, { isBusy, preview }) {
  if (stale) {
    const button = h("button", { type: "button", onclick: preview }, "Generate a new preview (uses AI)");
    setAttribute(button, "disabled", previewBlocked !== "" || isBusy);
    const text = h("p", {}, h("strong", {}, "Stale. "), stale);
    return h("div", { class: "banner banner-warning stale" }, text, button);
  }
  if (!applied) return null;
  const left = estimate?.totalAffected ?? 0;
  const rest = ` What is left: ${count(left, "product")}. Generate a new preview for them.`;
  const text = `Applied: ${count(applied.result?.updated ?? 0, "product")} updated.${left ? rest : ""}`;
  return h("p", { class: "banner banner-done" }, text);
}

// Show the run that is under way, or the newest one that did not succeed, in `place`.
export function runPanel(place, run, { project, now, may, cancel }) {
  const key = run ? `${run.id} ${run.status} ${run.attempt}` : "";
  refill(place, key, () => (run ? panelOf(run, { project, now, may, cancel }) : null));
  if (!run) return;
  refill(place.querySelector(".run-progress"), String(run.sequence), () => progressOf(run));
  if (!hasEnded(run)) place.querySelector(".run-duration").textContent = durations(run, now);
}

function panelOf(run, { project, now, may, cancel }) {
  const mayCancel = !hasEnded(run) && may(roleFor(run.runType));
  return h(
    "section",
    { class: "sheet padded panel", "aria-label": "The newest run", "data-run": run.id },
    h(
      "p",
      { class: "panel-head" },
      h("strong", {}, TYPES[run.runType]),
      statusChip(run.status),
      h("span", { class: "run-progress" }),
    ),
    run.errorMessage ? h("p", {}, run.errorMessage) : null,
    h(
      "p",
      { class: "panel-foot" },
      h("span", { class: "quiet small run-duration" }, durations(run, now)),
      linkTo({ project, run: run.id }, {}, "Open the run"),
      mayCancel ? h("button", { type: "button", class: "danger", onclick: () => cancel(run) }, "Cancel") : null,
    ),
  );
}
