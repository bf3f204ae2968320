// What is known of a run, as pairs of a name and a value.

import { h } from "./element.js";
import { identifier, linkTo } from "./parts.js";
import { duration, durations, timeOf } from "./times.js";
import { count, hasEnded } from "./words.js";

// Return the facts of a run; `retry` is the run that retries it, null where there is none.
export function factsOf(run, { project, retry, now }) {
  const { meta } = run;
  const link = (id) => linkTo({ project, run: id }, {}, h("code", {}, id));
  const scope = [
    identifier(run.scopeId, "scope"),
    run.scopeId
      ? [" ", linkTo({ project, view: "runs", scope: run.scopeId }, { class: "small" }, "Runs of this scope")]
      : null,
  ];
  return h(
    "dl",
    { class: "facts" },
    fact("Run id", identifier(run.id, "run id")),
    run.retryOf ? fact("Retry of", link(run.retryOf)) : null,
    retry ? fact("Retried by", link(retry.id)) : null,
    fact("Duration", h("span", { class: "run-duration" }, durations(run, now))),
    fact("Attempt", run.attempt === 0 ? "Not started" : String(run.attempt)),
    fact("Scope", scope),
    fact("Rules hash", identifier(run.rulesHash, "rules hash")),
    meta?.sampleSize ? fact("Sample", count(meta.sampleSize, "product")) : null,
    meta?.deadlineSeconds ? fact("Deadline", `${duration(meta.deadlineSeconds * 1000)} after it was created`) : null,
    meta?.economy ? fact("Price", "Economy: about half, but may take hours") : null,
    fact("AI", aiOf(run)),
    run.draftId ? fact("Draft", identifier(run.draftId, "draft id")) : null,
    fact("Who", run.createdByUserId),
    run.traceId ? fact("Trace", traceOf(run)) : null,
    fact("Created", timeOf(run.createdAt)),
    fact("Started", timeOf(run.startedAt)),
    fact("Finished", timeOf(run.finishedAt)),
  );
}

// The id of a run's trace: a link where the gateway knows the address of traces (TRACE_URL).
function traceOf({ traceId }) {
  const address = document.querySelector('meta[name="trace-url"]').content;
  if (!address) return identifier(traceId, "trace id");
  const link = h("a", { href: address.replaceAll("{trace_id}", traceId), rel: "noopener noreferrer" }, h("code", {}, traceId));
  return h("span", { class: "identifier" }, link);
}

function fact(name, ...value) {
  return h("div", {}, h("dt", {}, name), h("dd", {}, ...value));
}

function aiOf(run) {
  if (run.runType === "APPLY") return "Never used by an apply";
  const { aiUsage: usage } = run;
  if (!usage) return run.aiUsed ? "Used" : hasEnded(run) ? "Not used" : "Not used yet";
  const parts = [
    count(usage.suggestions, "suggestion"),
    usage.reused ? `${usage.reused.toLocaleString("en")} that were there already` : "",
    usage.requests ? count(usage.requests, "request") : "",
    usage.inputTokens
      ? `${usage.inputTokens.toLocaleString("en")} tokens in, ${usage.outputTokens.toLocaleString("en")} out`
      : "",
  ];
  return parts.filter(Boolean).join(", ") + (usage.model ? `, by ${usage.model}` : "");
}
