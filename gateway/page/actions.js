// Cancelling and retrying runs.

import { confirm } from "./dialog.js";
import { h } from "./element.js";
import { count, runName } from "./words.js";

const AT_ONCE = 4; // calls
const NAMED = 8; // runs that a question names

// Cancel runs, after a question. Return {runs, refused}: the runs as they are now, and [run, error] of each refusal;
// null: the person said no.
export async function cancelRuns({ api, project, notices }, runs) {
  const body = [
    h("p", {}, "What has not been written yet is not written any more. What was written stays as it is."),
    listOf(runs),
  ];
  if (
    !(await confirm(`Cancel ${count(runs.length, "run")}?`, body, `Cancel ${count(runs.length, "run")}`, {
      isDangerous: true,
    }))
  )
    return null;
  const done = await forEach(runs, (run) => api.post(project, `runs/${run.id}:cancel`));
  const cancelled = done.runs.filter((run) => run.status === "CANCELLED").length;
  if (done.runs.length)
    notices.say(
      cancelled === done.runs.length
        ? `${count(cancelled, "run")} cancelled.`
        : `${count(cancelled, "run")} cancelled; the others end or had ended.`,
    );
  return done;
}

// Retry runs, after a question. Return what cancelRuns does; the runs are the new ones.
export async function retryRuns({ api, project, notices }, runs) {
  const callsAi = runs.some((run) => run.runType !== "APPLY");
  const body = [
    h("p", {}, "Each is started again as a new run, with the same options. The original stays in the history."),
    callsAi ? h("p", {}, "Previews and drafts may use AI for products that have no suggestion yet.") : null,
    runs.some((run) => run.runType === "APPLY")
      ? h("p", {}, "An apply writes its draft into the catalog. It never uses AI.")
      : null,
    listOf(runs),
  ];
  const label = `Retry ${count(runs.length, "run")}${callsAi ? " (may use AI)" : ""}`;
  if (!(await confirm(`Retry ${count(runs.length, "run")}?`, body, label))) return null;
  const done = await forEach(runs, (run) => api.post(project, `runs/${run.id}:retry`));
  if (done.runs.length) notices.say(`${count(done.runs.length, "run")} started again.`);
  return done;
}

async function forEach(runs, call) {
  const waiting = [...runs];
  const done = { runs: [], refused: [] };
  const work = async () => {
    for (let run = waiting.shift(); run; run = waiting.shift()) {
      try {
        done.runs.push(await call(run));
      } catch (error) {
        done.refused.push([run, error]);
      }
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  return done;
}

function listOf(runs) {
  const named = runs.slice(0, NAMED).map((run) => h("li", {}, runName(run), " ", h("code", {}, run.id.slice(-8))));
  if (runs.length > NAMED) named.push(h("li", {}, `and ${count(runs.length - NAMED, "more run")}`));
  return h("ul", { class: "named" }, named);
}
