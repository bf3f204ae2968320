// What states, types and errors are called here, and what a person can do about them.

export const PLAYBOOKS = {
  missing_seo_title: { name: "Missing SEO titles", noun: "SEO title", field: "seoTitle" },
  missing_seo_description: { name: "Missing SEO descriptions", noun: "SEO description", field: "seoDescription" },
};

export const TYPES = { PREVIEW_GENERATE: "Preview", DRAFT_GENERATE: "Full draft", APPLY: "Apply" };

export const STATUSES = {
  QUEUED: "Queued",
  RUNNING: "Running",
  SUCCEEDED: "Succeeded",
  FAILED: "Failed",
  STALE: "Stale",
  CANCELLED: "Cancelled",
};

export const DRAFT_STATUSES = { PARTIAL: "Preview", READY: "Complete", FAILED: "No suggestion", EXPIRED: "Expired" };

export const ITEM_STATUSES = { UPDATED: "Updated", SKIPPED: "Skipped", FAILED: "Failed" };

export const WARNINGS = {
  trimmed_to_max_length: "Cut to the maximum length",
  forbidden_phrase_detected: "Has a forbidden phrase",
};

const NEW_PREVIEW =
  "Open the playbook and generate a new preview; suggestions that still fit are taken over at no cost.";
const LATER = "Nothing was changed. Retry this run later; suggestions that were already written are kept.";
export const ADVICE = {
  PLAYBOOK_SCOPE_INVALID: NEW_PREVIEW,
  PLAYBOOK_RULES_CHANGED: NEW_PREVIEW,
  PLAYBOOK_DRAFT_NOT_FOUND: NEW_PREVIEW,
  PLAYBOOK_DRAFT_EXPIRED: NEW_PREVIEW,
  PROJECT_NOT_FOUND: "Import a catalog into this project first, then retry the run.",
  PLAN_NOT_ELIGIBLE: "Move the project to a plan with AI suggestions, then retry the run.",
  AI_DAILY_LIMIT_REACHED: "Wait for the allowance to reset, or preview fewer products. Then retry the run.",
  AI_AUTHENTICATION_FAILED: "The operator of the service has to set a valid API key; then retry the run.",
  AI_RATE_LIMITED: LATER,
  AI_TIMEOUT: LATER,
  AI_PROVIDER_ERROR: LATER,
  AI_INVALID_RESPONSE: LATER,
  MAX_ATTEMPTS_EXCEEDED:
    "The executor died several times at this run. Look into its log with the run's id before you retry.",
  RUN_DEADLINE_EXCEEDED:
    "The run took longer than its deadline. Retry it when there is less to do, or with a longer deadline.",
  INTERNAL_ERROR: "Look into the executor's log with the run's id, then retry the run.",
};

// Return what a playbook is called.
export function playbookName(id) {
  return PLAYBOOKS[id]?.name ?? id;
}

// Return what a run is called: "Preview of missing SEO titles".
export function runName(run) {
  const type = TYPES[run.runType] ?? run.runType;
  const name = playbookName(run.playbookId);
  return `${type} · ${name}`;
}

// Whether a run has ended.
export function hasEnded(run) {
  return !["QUEUED", "RUNNING"].includes(run.status);
}

// Whether a run may be retried.
export function isRetryable(run) {
  return ["FAILED", "STALE", "CANCELLED"].includes(run.status);
}

// Return the role that may create, cancel and retry runs of a type.
export function roleFor(runType) {
  return runType === "APPLY" ? "OWNER" : "EDITOR";
}

// Return "1 product", "5,000 products".
export function count(number, noun) {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}
