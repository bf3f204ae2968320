// What can be done with a playbook now, and why the rest cannot.

import { count, hasEnded, PLAYBOOKS, TYPES } from "./words.js";

// The facts: `estimate` (null while it is read), `problem` (why it could not be), `draft` (null: none; undefined while
// it is read), `runs` (known ones of the playbook, newest first), `may(role)`, `role`, `now` in milliseconds.
export class Job {
  constructor({ playbook, estimate, problem, draft, runs, may, role, now }) {
    Object.assign(this, { playbook, estimate, problem, draft, runs, may, role, now });
    this.noun = PLAYBOOKS[playbook].noun;
  }

  // The run that is under way.
  get active() {
    return this.runs.find((run) => !hasEnded(run)) ?? null;
  }

  // The apply that wrote the draft.
  get applied() {
    if (!this.draft) return null;
    return (
      this.runs.find(
        (run) =>
          run.runType === "APPLY" && run.status === "SUCCEEDED" && run.draftId === this.draft.id && !this.#isOlder(run),
      ) ?? null
    );
  }

  // Why the draft does not fit what is there now, for a person; "": it does, or there is none.
  get stale() {
    const { draft, estimate, noun } = this;
    if (!draft || !estimate || this.applied) return "";
    if (draft.status === "EXPIRED" || Date.parse(draft.expiresAt) <= this.now) {
      return "This draft has expired and can no longer be applied.";
    }
    if (draft.scopeId !== estimate.scopeId) {
      const now = `${count(estimate.totalAffected, "product")} without ${noun}`;
      return `The products have changed since this draft was made: there are ${now} now.`;
    }
    if (draft.rulesHash !== estimate.rulesHash) return "The rules have changed since this draft was made.";
    return "";
  }

  // Why there can be no preview now; "": there can.
  get previewBlocked() {
    if (!this.may("EDITOR")) return this.#roleTooLow("EDITOR");
    return this.#nothingToDo || this.#isIneligible || this.#isBusy;
  }

  // Why there can be no full draft now.
  get draftBlocked() {
    if (!this.may("EDITOR")) return this.#roleTooLow("EDITOR");
    const common = this.#nothingToDo || this.#isBusy || this.#needsPreview;
    if (common) return common;
    if (this.draft.status === "READY") return "The draft is complete.";
    return this.estimate.eligible ? "" : this.estimate.reasons.join(" ");
  }

  // Why nothing can be applied now.
  get applyBlocked() {
    if (!this.may("OWNER")) return this.#roleTooLow("OWNER");
    const common = this.#nothingToDo || this.#isBusy || this.#needsPreview;
    if (common) return common;
    const { affectedTotal, draftGenerated } = this.draft.counts;
    if (this.draft.status === "PARTIAL") {
      const part = `${draftGenerated} of ${count(affectedTotal, "product")}`;
      return `Generate the full draft first: this preview has suggestions for ${part}.`;
    }
    return draftGenerated === 0 ? "The draft has no suggestion that could be applied." : "";
  }

  // The step that leads on: preview, draft, apply; "": there is none.
  get next() {
    if (!this.applyBlocked) return "apply";
    if (!this.draftBlocked) return "draft";
    return this.previewBlocked || (this.draft?.status === "READY" && !this.stale && !this.applied) ? "" : "preview";
  }

  // How many products an apply would write.
  get applies() {
    return this.draft && !this.stale && !this.applied ? this.draft.counts.draftGenerated : 0;
  }

  get #nothingToDo() {
    if (this.problem) return "What there is to do could not be read.";
    if (this.estimate === null || this.draft === undefined) return "One moment: what there is to do is being read.";
    return this.estimate.totalAffected === 0 ? `No product is without ${this.noun}: there is nothing to do.` : "";
  }

  // A plan without AI has a limit of 0. A limit that is used up stops no preview: what was suggested before is free.
  get #isIneligible() {
    const { eligible, reasons, aiDailyLimit } = this.estimate;
    return !eligible && aiDailyLimit?.limit === 0 ? reasons.join(" ") : "";
  }

  get #isBusy() {
    const { active } = this;
    if (!active) return "";
    return `${TYPES[active.runType]} is ${active.status.toLowerCase()}: wait for its end, or cancel it.`;
  }

  get #needsPreview() {
    if (!this.draft) return "Generate a preview first.";
    if (this.applied) return "This draft was applied. Generate a new preview for the products that are left.";
    return this.stale ? "Generate a new preview first." : "";
  }

  #roleTooLow(needed) {
    return `This needs the role ${needed}; your token has ${this.role || "none"} here.`;
  }

  #isOlder(run) {
    return Date.parse(run.finishedAt) < Date.parse(this.draft.updatedAt); // both by the executor's clock
  }
}
