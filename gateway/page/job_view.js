// The job of one playbook: rules, preview, full draft, apply.

import { cancelRuns } from "./actions.js";
import { askToApply } from "./apply_question.js";
import { headOfDraft } from "./draft_head.js";
import { DraftTable } from "./draft_table.js";
import { h, refill } from "./element.js";
import { Job } from "./job.js";
import { allowanceOf, economyBox, noProducts, noProject, noticeOf, runPanel, step } from "./job_parts.js";
import { JobStore } from "./job_store.js";
import { problemBox, reasonOf } from "./parts.js";
import { RulesForm } from "./rules_form.js";
import { progressOf } from "./run_row.js";
import { count, hasEnded, TYPES } from "./words.js";

const DEFAULT_SAMPLE = 3; // products
const LARGEST_SAMPLE = 50;
const SHOW_PAUSE = 80; // milliseconds
const REFRESH_PAUSE = 200;
const EXAMPLES = 5; // that the question before an apply shows

export class JobView {
  #context;
  #playbook;
  #store;
  #draft; // undefined: not read yet; null: there is none
  #pairs = []; // the first items of the draft, with their products
  #isSending = false;
  #own = new Set(); // ids of runs that were created here and go on
  #soon = { show: null, refresh: null }; // timers: many changes at once are shown once
  #table;
  #form = new RulesForm((rules) => this.#edited(rules));
  #sample = h("input", {
    type: "number",
    id: "sample",
    min: 1,
    max: LARGEST_SAMPLE,
    value: DEFAULT_SAMPLE,
    inputmode: "numeric",
  });
  #economy = { preview: economyBox("preview"), draft: economyBox("draft") };
  #overview = h("div", { class: "overview" });
  #notice = h("div", { role: "status" });
  #panel = h("div");
  #draftHead = h("div", { class: "draft-head" });
  #columns = h("div", { class: "job-columns" });
  #steps;

  constructor(context, playbook, estimated) {
    this.#context = context;
    this.#playbook = playbook;
    this.#store = new JobStore(context, playbook, () => {
      if (this.#store.estimate) estimated(this.#store.estimate);
      this.#show();
    });
    this.#table = new DraftTable(context, `${playbook}/drafts/latest`, (draft, pairs) => this.#drafted(draft, pairs));
    this.#steps = {
      preview: step(
        "Preview",
        [h("label", { class: "inline" }, "Products to preview", this.#sample), this.#economy.preview.element],
        "A few suggestions to look at first.",
        () => this.#preview(),
      ),
      draft: step(
        "Full draft",
        this.#economy.draft.element,
        "Suggestions for every product that has none yet.",
        () => this.#generate(),
      ),
      apply: step("Apply", null, "Writes the draft into the catalog. Never uses AI.", () => this.#apply()),
    };
    const rules = h("li", { class: "step" }, h("h2", {}, "Rules"), this.#form.element);
    this.element = h("div", { class: "job", "data-playbook": playbook }, this.#overview, this.#notice, this.#columns);
    this.#columns.append(
      h(
        "ol",
        { class: "steps sheet", "aria-label": "Steps" },
        rules,
        Object.values(this.#steps).map(({ element }) => element),
      ),
      h(
        "div",
        { class: "job-side" },
        this.#panel,
        h("section", { class: "sheet", "aria-labelledby": "h-draft" }, this.#draftHead, this.#table.element),
      ),
    );
  }

  async start() {
    this.#show();
    await Promise.all([this.#table.load(), this.#store.readRuns().catch((error) => this.#failed(error))]);
    await this.#showRules();
    await this.#estimate();
  }

  // Take a change of a run, or with `isNews` false one that is as it was.
  take(run, isNews = true) {
    if (run.playbookId !== this.#playbook) return;
    if (this.#store.take(run, isNews)) this.refresh();
    this.#sayEnds();
    this.#soon.show ??= setTimeout(() => {
      this.#soon.show = null;
      this.#show();
    }, SHOW_PAUSE);
  }

  // Read anew what a run may have changed.
  refresh() {
    this.#soon.refresh ??= setTimeout(() => {
      this.#soon.refresh = null;
      this.#table.load();
      this.#estimate();
    }, REFRESH_PAUSE);
  }

  // Read everything anew: changes may have been missed.
  reread() {
    this.#store.readRuns().catch((error) => this.#failed(error));
    this.refresh();
  }

  // Read anew what others may have changed meanwhile.
  seen() {
    if (this.#draft !== undefined) this.#estimate();
  }

  tick() {
    const { estimate, problem } = this.#store;
    const resetsAt = Date.parse(estimate?.aiDailyLimit?.resetsAt ?? "");
    if (!problem && resetsAt <= this.#context.api.now()) this.#estimate();
    this.#show();
  }

  close() {
    for (const timer of Object.values(this.#soon)) clearTimeout(timer);
    this.#store.close();
    this.#form.close();
    this.#table.close();
  }

  get #job() {
    const { session, project, api } = this.#context;
    const { estimate, problem, runs } = this.#store;
    const may = (role) => session.may(role, project);
    return new Job({
      playbook: this.#playbook,
      estimate,
      problem,
      draft: this.#draft,
      runs,
      may,
      role: session.roleIn(project),
      now: api.now(),
    });
  }

  get #rulesKey() {
    return `${this.#context.project} ${this.#playbook}`;
  }

  #estimate() {
    return this.#store.readEstimate(this.#form.rules);
  }

  // The rules that were edited here, or else those that the draft was made with.
  async #showRules() {
    const edited = this.#context.rules.get(this.#rulesKey);
    if (edited) return this.#form.show(edited);
    if (!this.#draft) return;
    try {
      this.#form.show(await this.#store.rulesOf(this.#draft));
    } catch (error) {
      this.#failed(error);
    }
  }

  #edited(rules) {
    this.#context.rules.set(this.#rulesKey, rules);
    this.#estimate();
  }

  #drafted(draft, pairs) {
    this.#draft = draft;
    this.#pairs = pairs.slice(0, EXAMPLES);
    this.#show();
  }

  #show() {
    const job = this.#job;
    const { problem } = this.#store;
    const isEmpty = !problem && this.#store.isEmpty;
    const known = JSON.stringify([this.#store.estimate, isEmpty, problem?.message, problem?.status]);
    const isMissing = problem?.reason === "PROJECT_NOT_FOUND";
    refill(this.#overview, known, () => {
      if (isMissing) return noProject(this.#context.project, () => this.reread());
      if (isEmpty) return noProducts(this.#context.project, () => this.reread());
      return problem ? problemBox(problem, () => this.reread()) : allowanceOf(job);
    });
    this.#columns.hidden = isMissing || isEmpty;
    const { preview, draft, apply } = this.#steps;
    const writes = job.applies;
    const how = (name) => ({ isBusy: this.#isSending, isNext: job.next === name });
    preview.show("Generate preview (uses AI)", job.previewBlocked, how("preview"));
    draft.show("Generate full draft (uses AI)", job.draftBlocked, how("draft"));
    apply.show(`Apply to ${count(writes, "product")}`, job.applyBlocked, how("apply"));
    this.#showNotice(job);
    this.#showPanel(job);
    refill(
      this.#draftHead,
      JSON.stringify([this.#draft?.updatedAt, this.#draft === null, problem !== null, job.stale !== "", job.applied?.id]),
      () => headOfDraft(this.#draft, job),
    );
  }

  #showNotice(job) {
    const { stale, applied, previewBlocked, estimate } = job;
    const key = JSON.stringify([stale, applied?.id, previewBlocked, estimate?.totalAffected, this.#isSending]);
    refill(this.#notice, key, () => noticeOf(job, { isBusy: this.#isSending, preview: () => this.#preview() }));
  }

  #showPanel(job) {
    const [newest] = job.runs;
    const shown = job.active ?? (newest && newest.status !== "SUCCEEDED" ? newest : null);
    const { project, api, session } = this.#context;
    const cancel = (run) => this.#cancel(run);
    runPanel(this.#panel, shown, { project, now: api.now(), may: (role) => session.may(role, project), cancel });
  }

  // What is sent

  #preview() {
    const size = Math.min(LARGEST_SAMPLE, Math.max(1, Math.trunc(Number(this.#sample.value)) || DEFAULT_SAMPLE));
    this.#sample.value = size;
    const economy = this.#economy.preview.box.checked;
    return this.#create("PREVIEW_GENERATE", { meta: { sampleSize: size, rules: this.#form.rules, economy } });
  }

  #generate() {
    return this.#create("DRAFT_GENERATE", { ...this.#ofDraft(), meta: { economy: this.#economy.draft.box.checked } });
  }

  async #apply() {
    const job = this.#job;
    const label = `Apply to ${count(job.applies, "product")}`;
    const { project } = this.#context;
    const asked = this.#ofDraft(); // what is written is what the question shows, also when there is another draft by then
    const isAgreed = await askToApply(label, { draft: this.#draft, pairs: this.#pairs, project });
    if (isAgreed) await this.#create("APPLY", asked);
  }

  // The key names the draft as it is: the same click twice makes one run, and a draft that was written again another.
  #ofDraft() {
    const { id, scopeId, rulesHash, updatedAt } = this.#draft;
    return { scopeId, rulesHash, idempotencyKey: `page ${id} ${updatedAt}` };
  }

  async #create(runType, request) {
    if (this.#isSending) return;
    const { api, project } = this.#context;
    this.#isSending = true;
    this.#show();
    try {
      const run = await api.post(project, `${this.#playbook}/runs`, { runType, ...request });
      this.#own.add(run.id);
      this.take(run);
    } catch (error) {
      this.#failed(error);
      this.#estimate();
    }
    this.#isSending = false;
    this.#show();
  }

  async #cancel(run) {
    const done = await cancelRuns(this.#context, [run]);
    for (const [, error] of done?.refused ?? []) this.#failed(error);
    for (const one of done?.runs ?? []) this.take(one);
  }

  // Where somebody clicked, what came of it may be out of sight.
  #sayEnds() {
    for (const run of this.#store.runs) {
      if (!hasEnded(run) || !this.#own.delete(run.id) || run.status === "CANCELLED") continue;
      const kind = run.status === "SUCCEEDED" ? "done" : "failed";
      this.#context.notices.say([`${TYPES[run.runType]} ${run.status.toLowerCase()}: `, progressOf(run)], kind);
    }
  }

  #failed(error) {
    this.#context.notices.say(reasonOf(error), "failed");
  }
}
